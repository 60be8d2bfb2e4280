// Images with boxes on them.

const SVG = 'http://www.w3.org/2000/svg';
const read = new Map();
let reading = true;  // the pictures come after this script

// The pictures of a sample; null if there are none, or they have not been read yet. An element is whole when the next
// one has begun; in a page that was cut off, the last one is not.
function picturesOf(number) {
  if (!read.has(number)) {
    const element = at(`pictures-${number}`);
    if (reading && !element?.nextElementSibling) return null;
    read.set(number, element && parsed(element.textContent));
  }
  return read.get(number);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const turnColour = (index) => run.turnColours[index % run.turnColours.length];

function makeImage(address, description, coarse) {
  const image = make('img', coarse ? 'coarse' : '');
  image.alt = description;
  image.src = address;
  return image;
}

function addRectangle(svg, box, className, colour) {
  for (const kind of ['casing', 'box']) {
    const rectangle = document.createElementNS(SVG, 'rect');
    rectangle.setAttribute('class', `${className} ${kind}`);
    rectangle.setAttribute('x', box[0]);
    rectangle.setAttribute('y', box[1]);
    rectangle.setAttribute('width', box[2] - box[0]);
    rectangle.setAttribute('height', box[3] - box[1]);
    if (kind === 'box') rectangle.setAttribute('stroke', colour);
    svg.append(rectangle);
  }
}

// A whole image with the boxes of an episode. They are in pixels of the original, which is stretched over the panel.
function makePanel(episode, size, address, description, tagged) {
  const sample = run.samples[episode.sample];
  const panel = make('div', 'panel');
  panel.style.aspectRatio = `${size[0]} / ${size[1]}`;
  if (address) panel.append(makeImage(address, description, size[0] < 500));
  else panel.append(make('div', 'missing', tagged ? (reading ? 'reading pictures …' : 'no picture') : ''));
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 ${sample.original[0]} ${sample.original[1]}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  for (const chain of sample.evidence) {
    for (const box of chain) addRectangle(svg, box, 'truth', run.evidenceColour);
  }
  panel.append(svg);
  episode.turns.forEach((turn, index) => {
    if (turn.crop === null) return;
    const kind = `crop-${index % run.turnColours.length}`;
    addRectangle(svg, turn.crop, kind, turnColour(index));
    if (!tagged) return;
    const tag = make('span', `tag ${kind}`, String(index + 1));
    tag.style.background = turnColour(index);
    tag.style.left = `${100 * turn.crop[0] / sample.original[0]}%`;
    tag.style.top = `${100 * turn.crop[1] / sample.original[1]}%`;
    panel.append(tag);
  });
  return panel;
}

const tokens = (size) => Math.floor(size[0] / run.tokenSide) * Math.floor(size[1] / run.tokenSide);
const inPixels = (size) => `${size[0]} × ${size[1]} pixels`;

// A crop as the policy was shown it, enlarged by a whole factor if it is small.
function makeCrop(episode, turn, index) {
  const pictures = picturesOf(episode.sample);
  const address = pictures && turn.picture !== null && pictures.crops[turn.picture];
  const corners = turn.crop.map((edge) => Math.round(edge)).join(', ');
  let caption = 'not shown to the policy: no tokens were left';
  if (turn.shown) caption = `as shown: ${inPixels(turn.shown)}, ${tokens(turn.shown)} tokens`;
  else if (turn.picture !== null) caption = 'the region; how it was shown is not recorded';
  const figure = make('figure');
  if (address) {
    const panel = make('div', 'panel');
    const image = makeImage(address, `crop of turn ${index + 1}`, true);
    image.addEventListener('load', () => {
      const longest = Math.max(image.naturalWidth, image.naturalHeight);
      const scale = longest > 256 ? 256 / longest : Math.floor(256 / longest);
      image.style.width = `${image.naturalWidth * scale}px`;
    });
    panel.style.borderColor = turnColour(index);
    panel.append(image);
    figure.append(panel);
  }
  figure.append(make('figcaption', '', caption, document.createElement('br'), `(${corners}) of the original`));
  return figure;
}
