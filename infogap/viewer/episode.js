// One episode in full, and its group.

const hidden = new Set();  // kinds of boxes that are switched off

function makeHead(episode, sample) {
  const options = make('ul', 'options', ...sample.options.map((text, place) => {
    const letter = String.fromCharCode(65 + place);
    const expected = sample.expected === letter || sample.expected === text;
    return make('li', expected ? 'expected' : '', `${letter}. ${text}${expected ? ' ✓' : ''}`);
  }));
  const answer = episode.answer === null ? 'no answer' : `answered “${episode.answer}”`;
  const expected = sample.expected === null ? '' : `, expected “${sample.expected}”`;
  return [
    make('p', 'where', `${episode.label} · sample ${sample.key}`),
    make('h2', '', sample.question),
    ...(sample.options.length ? [options] : []),
    make('p', 'outcome', verdict(episode), ` · ${answer}${expected} · ended: ${episode.stop.replaceAll('_', ' ')}`),
    ...episode.notes.map((text) => make('p', 'note', text)),
  ];
}

function makeTable(episode) {
  const cells = [
    ...run.rewards.map((name) => [rewardNames.get(name), number(rewardOf(episode, name), 3), '']),
    ...['total', 'advantage'].filter((name) => columns.has(name)).map((name) => [name, number(episode[name], 3), 'sum']),
    ['evidence covered', number(episode.coverage, 3), ''],
    ['policy tokens', number(episode.policyTokens), ''],
    ['visual tokens', number(episode.visualTokens), ''],
  ];
  const names = make('tr', '', ...cells.map(([name]) => {
    const cell = make('th', '', name);
    cell.scope = 'col';
    return cell;
  }));
  const values = make('tr', '', ...cells.map(([, value, kind]) => make('td', kind, value)));
  const table = make('table', '', names, values);
  table.setAttribute('aria-label', 'Rewards');
  return table;
}

function makeToggle(kind, colour, text) {
  const box = make('input');
  box.type = 'checkbox';
  box.checked = !hidden.has(kind);
  box.dataset.kind = kind;
  box.addEventListener('change', () => {
    if (box.checked) hidden.delete(kind);
    else hidden.add(kind);
    applyHidden();
  });
  const swatch = make('span', 'swatch');
  swatch.style.borderColor = colour;
  return make('label', '', box, swatch, text);
}

function applyHidden() {
  at('episode').className = [...hidden].map((kind) => `no-${kind}`).join(' ');
}

function makeToggles(episode, sample) {
  const toggles = make('fieldset', 'toggles', make('legend', '', 'Boxes'));
  if (sample.evidence.length) toggles.append(makeToggle('truth', run.evidenceColour, 'evidence'));
  const kinds = new Map();
  episode.turns.forEach((turn, index) => {
    if (turn.crop === null) return;
    const kind = `crop-${index % run.turnColours.length}`;
    kinds.set(kind, [...(kinds.get(kind) ?? []), index + 1]);
  });
  for (const [kind, turns] of kinds) {
    toggles.append(makeToggle(kind, turnColour(turns[0] - 1), `crop of turn ${turns.join(', ')}`));
  }
  return toggles;
}

function makeOverview(episode, sample) {
  const pictures = picturesOf(episode.sample);
  const panels = make('div', 'panels');
  const add = (id, size, address, description) => {
    const figure = make('figure', '', makePanel(episode, size, address, description, true));
    figure.id = id;
    figure.append(make('figcaption', '', description));
    panels.append(figure);
  };
  if (episode.view) {
    const size = episode.view.size;
    const description = `view as the policy saw it: ${inPixels(size)}, ${tokens(size)} tokens`;
    add('view', size, pictures && pictures.views[episode.view.picture], description);
  } else panels.append(make('p', 'soft', 'No view of the whole image was shown, or its size is not recorded.'));
  add('original', sample.original, pictures && pictures.original, `original: ${inPixels(sample.original)}`);
  return panels;
}

function makeSaid(kind, label, text) {
  return make('div', `said ${kind}`, make('b', '', label), make('pre', '', text));
}

function makeTurn(episode, turn, index) {
  const swatch = make('span', 'swatch');
  swatch.style.borderColor = turn.crop === null ? 'transparent' : turnColour(index);
  const heading = make('h4', '', ...(turn.crop === null ? [] : [swatch]), `Turn ${index + 1}`);
  const left = make('div', '', heading);
  if (turn.crop !== null) left.append(makeCrop(episode, turn, index));
  const said = make('div', '', makeSaid('sampled', '▶ policy wrote', turn.text));
  if (turn.error !== null) said.append(makeSaid('error', '! call failed', turn.error));
  if (turn.observation !== null) said.append(makeSaid('observed', '◀ came back', turn.observation));
  return make('section', 'turn', left, said);
}

function makeCard(episode) {
  const sample = run.samples[episode.sample];
  const pictures = picturesOf(episode.sample);
  const size = episode.view ? episode.view.size : sample.original;
  const address = pictures && (episode.view ? pictures.views[episode.view.picture] : pictures.original);
  const sums = episode.total === null ? '' : `total ${number(episode.total)}`;
  const advantage = episode.advantage === null ? '' : `adv. ${number(episode.advantage)}`;
  const facets = run.facets.filter((name) => name === 'arm' || name === 'view').map((name) => episode.facets[name]);
  const answer = episode.answer === null ? 'no answer' : episode.answer;
  const card = make('button', 'card', makePanel(episode, size, address, '', false),
    make('span', 'line', verdict(episode), ` ${answer}`),
    make('span', 'line soft', facets.join(' · ') || [sums, advantage].filter(Boolean).join(' · ') || episode.stop));
  card.type = 'button';
  card.dataset.name = episode.name;
  card.setAttribute('aria-label', `${episode.label}: ${answer}`);
  if (episode === current) card.setAttribute('aria-current', 'true');
  card.addEventListener('click', () => open(episode));
  return card;
}

function drawEpisode() {
  const main = at('episode');
  if (current === null) {
    main.replaceChildren(make('p', 'soft', 'This page has no such episode: choose one from the list.'));
    return;
  }
  const sample = run.samples[current.sample];
  const group = byGroup.get(current.group);
  const cards = make('div', '', ...group.map(makeCard));
  cards.id = 'group';
  const focused = Boolean(document.activeElement?.closest('.card'));  // drawn anew, it would lose the keyboard
  main.replaceChildren(
    ...makeHead(current, sample), makeTable(current), makeToggles(current, sample), makeOverview(current, sample),
    make('h3', '', 'Turns'), ...current.turns.map((turn, index) => makeTurn(current, turn, index)),
    make('h3', '', `Group of ${group.length}`), cards);
  applyHidden();
  if (focused) cards.querySelector('[aria-current]').focus({ preventScroll: true });
}
