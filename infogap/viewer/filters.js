// What passes the filters, in which order.

const run = JSON.parse(document.getElementById('run').textContent);
const episodes = run.episodes;
const byName = new Map();
const byGroup = new Map();
episodes.forEach((episode, index) => {
  const sample = run.samples[episode.sample];
  episode.index = index;
  episode.searched = [sample.question, sample.expected, sample.key, episode.answer, episode.label]
    .filter((text) => text !== null).join('\n').toLowerCase();
  if (!byName.has(episode.name)) byName.set(episode.name, episode);
  if (!byGroup.has(episode.group)) byGroup.set(episode.group, []);
  byGroup.get(episode.group).push(episode);
});

const at = (id) => document.getElementById(id);

// Numbers by which episodes are filtered and sorted, by name; null where an episode has none.
const rewardOf = (episode, name) => Object.hasOwn(episode.rewards, name) ? episode.rewards[name] : null;
const ownColumns = new Map([
  ['total', (episode) => episode.total],
  ['advantage', (episode) => episode.advantage],
  ['policy tokens', (episode) => episode.policyTokens],
  ['visual tokens', (episode) => episode.visualTokens],
  ['turns', (episode) => episode.turns.length],
  ['crops', (episode) => episode.turns.filter((turn) => turn.crop !== null).length],
]);
const ownSorters = new Map([
  ['order of the run', (episode) => episode.index],
  ['evidence covered', (episode) => episode.coverage],
]);
// A reward may bear the name of a column of ours.
const rewardNames = new Map(run.rewards.map((name) =>
  [name, ownColumns.has(name) || ownSorters.has(name) ? `reward ${name}` : name]));
const columns = new Map([
  ...run.rewards.map((name) => [rewardNames.get(name), (episode) => rewardOf(episode, name)]),
  ...ownColumns,
]);
for (const [name, value] of columns) {
  if (episodes.every((episode) => value(episode) === null)) columns.delete(name);
}
const sorters = new Map([...ownSorters, ...columns]);

function addOptions(select, values) {
  for (const value of values) {
    const option = document.createElement('option');
    option.value = option.textContent = value;
    select.append(option);
  }
}

function fillFilters() {
  addOptions(at('stop'), [...new Set(episodes.map((episode) => episode.stop))].sort());
  addOptions(at('column'), columns.keys());
  addOptions(at('sort'), sorters.keys());
  at('column').querySelector('[value=total]')?.setAttribute('selected', '');  // also after a reset
  for (const name of run.facets) {
    const values = new Set(episodes.map((episode) => episode.facets[name] ?? ''));
    if (values.size < 2) continue;
    const label = document.createElement('label');
    const select = document.createElement('select');
    select.dataset.facet = name;
    addOptions(select, ['']);
    select.options[0].textContent = 'any';
    addOptions(select, [...values].filter(Boolean));
    label.append(name, select);
    at('facets').append(label);
  }
  const steps = episodes.map((episode) => episode.step);
  const [first, last] = [steps.reduce((a, b) => Math.min(a, b)), steps.reduce((a, b) => Math.max(a, b))];
  at('step-least').placeholder = first;
  at('step-most').placeholder = last;
  at('steps').hidden = first === last;
  at('coverage-least').placeholder = '0';
  at('coverage-most').placeholder = '1';
}

// Whether a value is in the range that two fields give; an empty field is open, and no value is in no range.
function rangeOf(id) {
  const [least, most] = ['least', 'most'].map((end) => at(`${id}-${end}`).value).map((text) => text === '' ? null : +text);
  if (least === null && most === null) return () => true;
  return (value) => value !== null && (least === null || value >= least) && (most === null || value <= most);
}

function passing() {
  const text = at('text').value.trim().toLowerCase();
  const [right, stop] = [at('right').value, at('stop').value];
  const [inSteps, inCoverage, inColumn] = ['step', 'coverage', 'column'].map(rangeOf);
  const column = columns.get(at('column').value);
  const facets = [...at('facets').querySelectorAll('select')].filter((select) => select.value !== '');
  const found = episodes.filter((episode) =>
    (text === '' || episode.searched.includes(text)) &&
    (right === '' || episode.right === (right === 'right')) &&
    (stop === '' || episode.stop === stop) &&
    inSteps(episode.step) && inCoverage(episode.coverage) && inColumn(column(episode)) &&
    facets.every((select) => episode.facets[select.dataset.facet] === select.value));
  const value = sorters.get(at('sort').value);
  const sign = at('descending').checked ? -1 : 1;
  // episodes without a value come last in both directions
  return found.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
    return sign * (x - y) || a.index - b.index;
  });
}
