// Find tensors: a part of a key, a pattern with * and ?, or fate:NAME and rule:NUMBER.

let lowered = null;

/** Keys of both sides in lower case, made once; until then a search would make them. */
function loweredKeys() {
  lowered ??= sides.map((side) => side.keys.map((key) => key.toLowerCase()));
  return lowered;
}

/** Turn a pattern into a test of lower-case keys: * is anything, ? one character; it need not match the whole key. */
function patternTest(text) {
  const parts = text.replace(/^[*]+|[*]+$/g, "").split(/([*?]+)/);
  const source = parts.map((part) => {
    if (part.includes("*")) return "[^]*?";
    return part.startsWith("?") ? `[^]{${part.length}}` : part.replace(/[.+^${}()|[\]\\\/-]/g, "\\$&");
  });
  const expression = new RegExp(source.join(""), "u");
  const literal = parts.filter((part) => !/[*?]/.test(part)).reduce((a, b) => (b.length > a.length ? b : a), "");
  return (key) => key.includes(literal) && expression.test(key);
}

/** Turn one word of a query into a test of (side number, place). */
function wordTest(word) {
  const fate = word.match(/^fate:(\w+)$/);
  if (fate) {
    const wanted = facts.kinds.map((kind) => kind[3] === fate[1]);
    return (side, place) => wanted[sides[side].specs[place]];
  }
  const rule = word.match(/^rule:(\d+)$/);
  if (rule) {
    const wanted = facts.kinds.map((kind) => kind[5].includes(Number(rule[1]) - 1));
    return (side, place) => wanted[sides[side].specs[place]];
  }
  const keys = loweredKeys();
  if (/[*?]/.test(word)) {
    const test = patternTest(word);
    return (side, place) => test(keys[side][place]);
  }
  return (side, place) => keys[side][place].includes(word);
}

/** Search both sides; all words must fit. Returns for each side how many matches lie before each place, or null. */
function search(query) {
  const words = query.trim().toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const tests = words.map(wordTest);
  return sides.map((side, number) => {
    const before = new Int32Array(side.keys.length + 1);
    for (let place = 0; place < side.keys.length; place++) {
      let fits = true;
      for (const test of tests) fits = fits && test(number, place);
      before[place + 1] = before[place] + (fits ? 1 : 0);
    }
    return before;
  });
}
