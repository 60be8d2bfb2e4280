// The list: only the rows in sight exist, so that any number of episodes costs the same.

const ROW = 74;  // pixels, as in the style
const MARGIN = 8;
let shown = [];

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);  // strings become text, never markup
  return element;
}

function verdict(episode) {
  if (episode.right === null) return make('span', 'verdict unknown', 'not scored');
  return episode.right ? make('span', 'verdict right', '✓ right') : make('span', 'verdict wrong', '✗ wrong');
}

function number(value, digits = 2) {
  if (value === null || value === undefined) return '–';
  return Number.isInteger(value) ? String(value) : value.toFixed(digits);
}

function makeRow(episode, place) {
  const sample = run.samples[episode.sample];
  const total = episode.total === null ? '' : `total ${number(episode.total)}`;
  const row = make('div', 'row',
    make('div', 'top', make('span', 'label', episode.label), make('span', '', total), verdict(episode)),
    make('div', '', sample.question),
    make('div', 'soft', episode.answer === null ? 'no answer' : `answered ${episode.answer}`));
  row.id = `row-${episode.index}`;
  row.style.top = `${place * ROW}px`;
  row.setAttribute('role', 'option');
  row.setAttribute('aria-selected', String(episode === current));
  row.setAttribute('aria-posinset', place + 1);
  row.setAttribute('aria-setsize', shown.length);
  row.addEventListener('click', () => open(episode));
  return row;
}

function drawRows() {
  const list = at('list');
  const first = Math.max(Math.floor(list.scrollTop / ROW) - MARGIN, 0);
  const last = Math.min(Math.ceil((list.scrollTop + list.clientHeight) / ROW) + MARGIN, shown.length);
  const rows = [];
  for (let place = first; place < last; place++) rows.push(makeRow(shown[place], place));
  at('rows').style.height = `${shown.length * ROW}px`;
  if (!shown.length) rows.push(make('p', 'empty', 'No episode passes the filters.'));
  at('rows').replaceChildren(...rows);
  const inSight = current && at(`row-${current.index}`);
  if (inSight) list.setAttribute('aria-activedescendant', inSight.id);
  else list.removeAttribute('aria-activedescendant');
}

function applyFilters() {
  shown = passing();
  at('count').textContent = `${shown.length} of ${episodes.length} episodes`;
  at('list').scrollTop = 0;
  drawRows();
}

// Scroll as little as is needed for the current episode to be seen.
function reveal() {
  const place = shown.indexOf(current);
  if (place < 0) return;
  const list = at('list');
  const [top, bottom] = [place * ROW, (place + 1) * ROW];
  at('rows').style.height = `${shown.length * ROW}px`;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}
