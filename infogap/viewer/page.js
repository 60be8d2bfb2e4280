// The page: which episode is open, by the address and by keys.

let current = null;

function nameInAddress() {
  return location.hash.slice(1);
}

const narrow = window.matchMedia('(max-width: 800px)');  // as in the style: the episode stands below the list

function bringIntoSight() {
  if (narrow.matches) at('episode').scrollIntoView();
}

function show(episode) {
  const another = episode !== current;
  current = episode;
  drawEpisode();
  if (another) at('episode').scrollTop = 0;
  reveal();
  drawRows();
}

function open(episode) {
  if (nameInAddress() !== episode.name) history.pushState(null, '', `#${episode.name}`);
  show(episode);
  bringIntoSight();
}

function followAddress() {
  const name = nameInAddress();
  show(name === '' ? shown[0] ?? null : byName.get(name) ?? null);
  if (name !== '') bringIntoSight();
}

function step(list, by) {
  const place = list.indexOf(current);
  const next = place < 0 ? list[0] : list[Math.min(Math.max(place + by, 0), list.length - 1)];
  if (next && next !== current) open(next);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches('input:not([type=checkbox]), select')) {
    if (event.key === 'Escape') event.target.blur();
    return;
  }
  const group = current === null ? [] : byGroup.get(current.group);
  const actions = {
    j: () => step(shown, 1), ArrowDown: () => step(shown, 1),
    k: () => step(shown, -1), ArrowUp: () => step(shown, -1),
    ArrowRight: () => step(group, 1), ArrowLeft: () => step(group, -1),
    '/': () => at('text').focus(),
  };
  if (!Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
}

at('title').textContent = run.title;
at('notice').textContent = run.notice;
at('notice').hidden = run.notice === '';
fillFilters();
applyFilters();
followAddress();
performance.mark('usable');

at('filters').addEventListener('input', applyFilters);
at('filters').addEventListener('submit', (event) => event.preventDefault());
at('filters').addEventListener('reset', () => setTimeout(applyFilters));  // fields are emptied after this
at('list').addEventListener('scroll', drawRows);
window.addEventListener('resize', drawRows);
window.addEventListener('popstate', followAddress);  // also where the address is edited
document.addEventListener('keydown', onKey);

// The pictures of the episode in sight are drawn as soon as they are read, long before all are.
function drawWhenRead() {
  if (current === null || read.has(current.sample) || picturesOf(current.sample) === null) return;
  drawEpisode();
}

const reader = new MutationObserver(drawWhenRead);
reader.observe(document.body, { childList: true });
document.addEventListener('DOMContentLoaded', () => {
  reader.disconnect();
  reading = false;
  if (at('episode').querySelector('.missing')) drawEpisode();
  performance.mark('complete');
});
