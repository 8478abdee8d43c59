// Draw which part of which source lands where in a target, from the copies of a step.

const DRAWN_BANDS = 8;
const DRAWN_CELLS = 6; // in one band
const MAX_INTERVALS = 4096;
const HUES = 6;

/**
 * Say which elements of a tensor a copy touches, axis by axis: where it starts on each, and its loops there.
 * Null for a copy whose loops lie across axes.
 */
function spreadOver(start, loops, shape) {
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
  const axes = shape.map((size, axis) => ({ size, low: Math.floor(start / strides[axis]) % size, loops: [] }));
  const todo = loops.filter(([size]) => size > 1);
  while (todo.length) {
    const [size, stride] = todo.pop();
    const axis = shape.findIndex((length, number) => length > 1 && strides[number] <= stride);
    if (axis < 0 || stride % strides[axis]) return null;
    const step = stride / strides[axis];
    const period = shape[axis] / step;
    if ((size - 1) * step < shape[axis]) {
      axes[axis].loops.push({ size, step });
    } else if (size % period === 0 && axes[axis].low < step) {
      if (period > 1) axes[axis].loops.push({ size: period, step });
      todo.push([size / period, strides[axis] * shape[axis]]);
    } else {
      return null;
    }
  }
  for (const axis of axes) {
    axis.loops.sort((a, b) => b.step - a.step);
    axis.high = axis.loops.reduce((high, { size, step }) => high + (size - 1) * step, axis.low) + 1;
    axis.numel = axis.loops.reduce((numel, { size }) => numel * size, 1);
    if (axis.high > axis.size) return null;
  }
  return axes;
}

/** The intervals [low, high) that a copy touches on an axis, in ascending order; null for too many. */
function intervalsOf(axis) {
  let length = 1;
  const outer = [...axis.loops];
  while (outer.length && outer[outer.length - 1].step === length) length *= outer.pop().size;
  if (axis.numel / length > MAX_INTERVALS) return null;
  let starts = [axis.low];
  for (const { size, step } of outer) {
    starts = starts.flatMap((start) => Array.from({ length: size }, (_, index) => start + index * step));
  }
  return starts.sort((a, b) => a - b).map((start) => [start, start + length]);
}

function isWhole(axis) {
  return axis.numel === axis.size;
}

function intervalText(low, high, size) {
  if (high - low === size) return ":";
  return high - low === 1 ? String(low) : `${low}:${high}`;
}

function axisText(axis) {
  if (axis.numel === axis.high - axis.low) return intervalText(axis.low, axis.high, axis.size);
  const inner = axis.loops[axis.loops.length - 1];
  return inner.step === 1 ? `${axis.low}:${axis.high} in ${inner.size}s` : `${axis.low}:${axis.high}:${inner.step}`;
}

/** Write the elements that a copy touches on one side, as `explain` does. */
function regionText(start, loops, shape) {
  const axes = spreadOver(start, loops, shape);
  if (!axes) return `{from ${start}: ${loops.map(([size, stride]) => `${size}x${stride}`).join(" ")}}`;
  return `[${axes.map(axisText).join(", ")}]${isAscending(loops) ? "" : " re-ordered"}`;
}

function isAscending(loops) {
  return loops.every(([, stride], number) => number === 0 || loops[number - 1][1] >= stride);
}

/**
 * Cut a copy that re-orders its source along the first axis of the target that it can be cut on, until what is left
 * reads in order; a copy that would fall into too many pieces stays whole.
 */
function separate(copy, shape) {
  if (isAscending(sourceLoops(copy))) return [copy];
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
  const onAxis = (axis) => copy.loops.filter(([size, , stride]) => size > 1 && stride >= strides[axis] && stride < strides[axis] * shape[axis]);
  const counted = shape.map((_, axis) => onAxis(axis).length);
  const several = counted.findIndex((loops) => loops > 1);
  const axis = several >= 0 ? several : counted.findIndex((loops) => loops > 0);
  let pieces = [copy];
  for (const loop of axis < 0 ? [] : onAxis(axis)) {
    if (isAscending(sourceLoops(pieces[0])) || pieces.length * loop[0] > MAX_INTERVALS) break;
    pieces = pieces.flatMap((piece) => iterations(piece, loop));
  }
  return pieces;
}

/** One copy for each iteration of one of a copy's loops. */
function iterations(copy, loop) {
  const [size, read, write] = loop;
  const loops = copy.loops.filter((each) => each !== loop);
  return Array.from({ length: size }, (_, index) => ({
    ...copy,
    sourceStart: copy.sourceStart + index * read,
    targetStart: copy.targetStart + index * write,
    loops,
  }));
}

const sourceLoops = (copy) => copy.loops.map(([size, stride]) => [size, stride]);
const targetLoops = (copy) => copy.loops.map(([size, , stride]) => [size, stride]);

/** The part of the names that tells them apart: without the modules that all of them lie in. */
function shortNames(keys) {
  const parts = keys.map((key) => key.split("."));
  let shared = 0;
  while (parts.length > 1 && parts.every((part) => part.length > shared + 1 && part[shared] === parts[0][shared])) shared++;
  if (parts.length === 1) shared = Math.max(0, parts[0].length - 2);
  return parts.map((part) => part.slice(shared).join("."));
}

function clip(text, length) {
  const shown = visible(text);
  if (shown.length <= length) return shown;
  const half = (length - 1) / 2;
  return `${shown.slice(0, Math.ceil(half))}…${shown.slice(shown.length - Math.floor(half))}`;
}

/** Lay a target out in bands along its first divided axis, and in cells along the second. Null if that cannot be. */
function layOutBands(output) {
  const copies = output.copies.flatMap((copy) => separate(copy, output.shape));
  const cells = copies.map((copy) => ({ copy, axes: spreadOver(copy.targetStart, targetLoops(copy), output.shape) }));
  if (cells.some((cell) => !cell.axes)) return null;
  const divided = output.shape.map((_, axis) => axis).filter((axis) => cells.some((cell) => !isWhole(cell.axes[axis])));
  const [down = output.shape.length ? 0 : -1, across = -1] = divided;
  for (const cell of cells) {
    cell.down = down < 0 ? [[0, 1]] : intervalsOf(cell.axes[down]);
    cell.across = across < 0 ? [[0, 1]] : intervalsOf(cell.axes[across]);
    if (!cell.down || !cell.across) return null;
  }
  return { down, across, bands: cutBands(cells) };
}

/** Cut the axis wherever a cell begins or ends; each band knows the cells that lie in it. */
function cutBands(cells) {
  const bounds = [...new Set(cells.flatMap((cell) => cell.down.flat()))].sort((a, b) => a - b);
  const bands = bounds.slice(0, -1).map((low, number) => ({ low, high: bounds[number + 1], cells: [] }));
  const numberOf = new Map(bounds.map((bound, number) => [bound, number]));
  for (const cell of cells) {
    for (const [low, high] of cell.down) {
      for (let number = numberOf.get(low); number < numberOf.get(high); number++) bands[number].cells.push(cell);
    }
  }
  for (const band of bands) band.cells.sort((a, b) => a.across[0][0] - b.across[0][0]);
  return bands;
}

/** Choose the bands to draw: all, or the first ones, those of the source in question, and the last one. */
function chooseBands(bands, slot) {
  if (bands.length <= DRAWN_BANDS) return bands.map((_, number) => number);
  const asked = bands.flatMap((band, number) => (band.cells.some((cell) => cell.copy.source === slot) ? [number] : []));
  return [...new Set([0, 1, 2, ...asked.slice(0, 3), bands.length - 1])].sort((a, b) => a - b);
}

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const WIDTH = 440;
const BOX = { left: 234, right: 364 };
const LABEL_RIGHT = 190;
const LABEL_LENGTH = 29;
const LETTER_PX = 6.4;
const LINE_PX = 16;

/**
 * Draw one target with the sources that land in it.
 * @param output  dtype, shape and copies of the target
 * @param slots  names and specs of what the copies read
 * @param asked  slot of the source that was asked about, or -1
 */
function drawDiagram(output, name, slots, asked) {
  const laidOut = layOutBands(output);
  if (!laidOut || !output.copies.length) return null;
  const { down, across, bands } = laidOut;
  const hues = new Map();
  const names = shortNames(slots.map((slot) => slot.name));
  const hueOf = (slot) => {
    const family = names[slot].replace(/\d+/g, "#");
    if (!hues.has(family)) hues.set(family, hues.size % HUES);
    return hues.get(family);
  };
  const parts = [];
  let y = 4;
  let last = -1;
  for (const number of chooseBands(bands, asked)) {
    if (number > last + 1) {
      parts.push(draw("text", { class: "gap", x: (BOX.left + BOX.right) / 2, y: y + 12 }, `⋯ ${count(number - last - 1)} more`));
      y += LINE_PX + 4;
    }
    const height = bandHeight(bands, number, output.shape[down]);
    parts.push(...drawBand(bands[number], { y, height, output, down, across, slots, names, hueOf, asked }));
    y += height + 2;
    last = number;
  }
  const label = `${name}: ${bands.length} parts of ${formatSpec(output)}, from ${output.copies.length} copies`;
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${y + 4}`, class: "diagram", role: "img", "aria-label": visible(label) }, ...parts);
  return make("figure", {}, make("figcaption", {}, ...caption(output, name, down, across)), svg);
}

function caption(output, name, down, across) {
  const notes = [make("code", {}, visible(name)), ` ${formatSpec(output)}`];
  const axes = [];
  if (down >= 0) axes.push(`down: axis ${down} of ${count(output.shape[down])}`);
  if (across >= 0) axes.push(`across: axis ${across} of ${count(output.shape[across])}`);
  return axes.length ? [...notes, make("span", { class: "axes" }, axes.join(" · "))] : notes;
}

function bandHeight(bands, number, size) {
  const { low, high, cells } = bands[number];
  const share = bands.length > 1 && bands.length <= DRAWN_BANDS && size ? (160 * (high - low)) / size : 0;
  return Math.max(ROW_PX, Math.min(cells.length, DRAWN_CELLS + 1) * LINE_PX + 2, share);
}

function drawBand(band, place) {
  const { y, height, output, down } = place;
  const parts = [];
  if (down >= 0 && (band.low > 0 || band.high < output.shape[down])) {
    const text = intervalText(band.low, band.high, output.shape[down]);
    parts.push(draw("text", { class: "tick", x: BOX.right + 6, y: y + height / 2 + 4 }, text));
  }
  const shown = band.cells.slice(0, DRAWN_CELLS);
  const first = y + (height - Math.min(band.cells.length, DRAWN_CELLS + 1) * LINE_PX) / 2;
  const drawn = shown.map((cell, index) => drawCell(cell, first + index * LINE_PX + 12, place));
  parts.push(...drawn.map(({ line }) => line), ...drawn.map(({ cell }) => cell));
  if (band.cells.length > shown.length) {
    const text = `… ${count(band.cells.length - shown.length)} more`;
    parts.push(draw("text", { class: "source gap", x: LABEL_RIGHT, y: first + shown.length * LINE_PX + 12 }, text));
  }
  return parts;
}

/** Draw one cell: the source's name, a line, and its boxes in the band, which cover the lines that pass behind them. */
function drawCell(cell, labelY, { y, height, output, across, slots, names, hueOf, asked }) {
  const { source, sourceStart } = cell.copy;
  const size = across >= 0 ? output.shape[across] : 1;
  const scale = (BOX.right - BOX.left) / size;
  const region = regionText(sourceStart, sourceLoops(cell.copy), slots[source].shape).replace(/^\[(:, )*:?\] ?/, "");
  const classes = `cell hue${hueOf(source)}${source === asked ? " asked" : ""}`;
  const left = Math.max(BOX.left, BOX.left + cell.across[0][0] * scale);
  const middle = y + height / 2;
  const from = labelY - 4;
  const bend = (LABEL_RIGHT + BOX.left) / 2;
  const line = draw("path", { class: classes, d: `M${LABEL_RIGHT + 14} ${from}C${bend + 7} ${from} ${bend} ${middle} ${BOX.left} ${middle}H${left}` });
  const boxes = cell.across.map(([low, high]) =>
    draw("rect", { x: BOX.left + low * scale, y, width: Math.max(1, (high - low) * scale - 1), height }),
  );
  const swatch = draw("rect", { x: LABEL_RIGHT + 5, y: from - 4, width: 8, height: 8 });
  const room = region ? Math.max(10, LABEL_LENGTH - region.length - 1) : LABEL_LENGTH;
  const label = draw("text", { class: "source", x: LABEL_RIGHT, y: labelY }, clip(names[source], room));
  if (region) label.append(draw("tspan", { class: "region" }, ` ${clip(region, 26)}`));
  const [low, high] = cell.across[0];
  const text = across >= 0 && cell.across.length === 1 ? intervalText(low, high, size) : "";
  const inside = text.length * LETTER_PX < (high - low) * scale ? text : "";
  const note = draw("text", { class: "inside", x: left + ((high - low) * scale) / 2, y: middle + 4 }, inside);
  const full = draw("title", {}, `${visible(slots[source].name)} ${formatSpec(slots[source])} ${region}`);
  return { line, cell: draw("g", { class: classes }, full, swatch, ...boxes, label, note) };
}
