// Unfold the packed facts into flat arrays: both trees in the order of a walk, tensors by their place in it, steps.

const facts = JSON.parse(document.getElementById("facts").textContent);

const MODULE = 0;
const GROUP = 1;
const TENSOR = 2;

/** Unfold numbers: the first one, then pairs of a difference and how often it follows. */
function unpackNumbers(packed) {
  const numbers = packed.slice(0, 1);
  let last = packed[0];
  for (let at = 1; at < packed.length; at += 2) {
    for (let left = packed[at + 1]; left > 0; left--) {
      last += packed[at];
      numbers.push(last);
    }
  }
  return numbers;
}

/** One layout. Rows are in the order of a walk, groups of like modules included; tensors have their places from 0. */
class Side {
  constructor(name, packed) {
    this.name = name;
    this.names = [];
    this.kinds = [];
    this.levels = [];
    this.parents = [];
    this.positions = [];
    this.setSizes = [];
    this.first = []; // place of the first tensor in a row
    this.stop = []; // place after the last one
    this.after = []; // the row that follows all that is in this one
    this.keys = [];
    this.specs = []; // by tensor: its kind in facts.kinds
    this.rowOf = [];
    this.nodes = packed.nodes;
    this.unfold(packed.root, 0, -1, "");
    delete this.nodes;
    this.stepOf = new Int32Array(this.keys.length).fill(-1);
    this.bytesBefore = new Float64Array(this.keys.length + 1);
    this.specs.forEach((spec, place) => {
      this.bytesBefore[place + 1] = this.bytesBefore[place] + facts.kinds[spec][2];
    });
  }

  unfold(children, level, parent, path) {
    const size = children.length / 2;
    for (let at = 0; at < children.length; at += 2) {
      const name = children[at];
      const position = at / 2 + 1;
      if (typeof name === "string") {
        this.unfoldOne(name, children[at + 1], level, parent, path, position, size);
      } else {
        this.unfoldRun(name, children[at + 1], level, parent, path, position, size);
      }
    }
  }

  unfoldRun([first, count, suffix], reference, level, parent, path, position, size) {
    const row = this.open(`{${first}..${first + count - 1}}${suffix}`, GROUP, level, parent, position, size);
    for (let index = 0; index < count; index++) {
      this.unfoldOne(`${first + index}${suffix}`, reference, level + 1, row, path, index + 1, count);
    }
    this.close(row);
  }

  unfoldOne(name, reference, level, parent, path, position, size) {
    const row = this.open(name, reference < 0 ? TENSOR : MODULE, level, parent, position, size);
    if (reference < 0) {
      this.rowOf.push(row);
      this.keys.push(path + name);
      this.specs.push(-1 - reference);
    } else {
      this.unfold(this.nodes[reference], level + 1, row, `${path}${name}.`);
    }
    this.close(row);
  }

  open(name, kind, level, parent, position, size) {
    this.kinds.push(kind);
    this.levels.push(level);
    this.parents.push(parent);
    this.positions.push(position);
    this.setSizes.push(size);
    this.first.push(this.keys.length);
    return this.names.push(name) - 1;
  }

  close(row) {
    this.stop[row] = this.keys.length;
    this.after[row] = this.names.length;
  }

  bytes(row) {
    return this.bytesBefore[this.stop[row]] - this.bytesBefore[this.first[row]];
  }

  kind(place) {
    const [dtype, shape, bytes, fate, by, rules] = facts.kinds[this.specs[place]];
    return { dtype, shape, bytes, fate, by, rules };
  }
}

/** A step with its tensors as places in the two sides. */
function stepAt(number) {
  const [program, trace, source, sources, target, targets] = steps.map((column) => column[number]);
  return {
    program,
    trace,
    sources: patterns[sources].map((distance) => source + distance),
    targets: patterns[targets].map((distance) => target + distance),
  };
}

const sides = [new Side("source", facts.source), new Side("target", facts.target)];
const steps = facts.steps.map(unpackNumbers);
const patterns = facts.patterns.map(unpackNumbers);

for (let number = 0; number < steps[0].length; number++) {
  const [, , source, sources, target, targets] = steps.map((column) => column[number]);
  for (const distance of patterns[sources]) sides[0].stepOf[source + distance] = number;
  for (const distance of patterns[targets]) sides[1].stepOf[target + distance] = number;
}

const programs = new Map();

/** A program with one entry for each source, and its copies as objects; unfolded when it is first looked at. */
function programAt(number) {
  if (!programs.has(number)) programs.set(number, unpackProgram(facts.programs[number]));
  return programs.get(number);
}

function unpackProgram(packed) {
  const sources = packed.sources.flatMap(([count, dtype, shape]) => Array(count).fill({ dtype, shape }));
  const outputs = packed.outputs.map(([dtype, shape, ...columns]) => {
    const [source, sourceStart, targetStart, nests] = columns.map(unpackNumbers);
    const copies = source.map((slot, at) => ({
      source: slot,
      sourceStart: sourceStart[at],
      targetStart: targetStart[at],
      loops: packed.nests[nests[at]],
    }));
    return { dtype, shape, copies };
  });
  const stop = outputs.length - packed.cuts.length;
  return {
    sources,
    constants: packed.constants.map(([dtype, shape, value]) => ({ name: value ? `declared ${value}` : "the model's own", dtype, shape, isDeclared: true })),
    temporaries: outputs.slice(0, packed.temporaries),
    targets: outputs.slice(packed.temporaries, stop),
    cuts: outputs.slice(stop).map((output, number) => ({ name: `cut off, if ${packed.cuts[number]}`, output })),
    casts: packed.casts,
  };
}

// Words and elements

/** Make an element; everything that is text goes in as text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") Object.entries(value).forEach(([event, call]) => element.addEventListener(event, call));
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const UNSEEN = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

/** Spell out characters that hide, reverse or break text. */
function visible(text) {
  return text.replace(UNSEEN, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);
}

const counting = new Intl.NumberFormat("en");

function count(number, noun = "") {
  const text = counting.format(number);
  return noun ? `${text} ${noun}${number === 1 ? "" : "s"}` : text;
}

/** Write a size in powers of 1,024, as the command does. */
function formatBytes(bytes) {
  let size = bytes;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (size < 1024) return unit === "B" ? `${size} B` : `${size.toFixed(2)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(2)} TiB`;
}

function formatSpec({ dtype, shape }) {
  return `${dtype} [${shape.join(", ")}]`;
}
