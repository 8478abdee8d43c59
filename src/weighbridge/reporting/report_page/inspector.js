// The panel beside the trees: the rules of the mapping, or everything about one tensor.

const LISTED_KEYS = 6;
const LISTED_COPIES = 40;
const DRAWN_TARGETS = 4;

const FATE_WORDS = {
  moved: () => "Its bytes go into the target, re-ordered at most.",
  computed: () => "Its values are cast on the way.",
  shared: () => "Each of its bytes goes to several places.",
  checked: () => "It must equal others, bit for bit: they become one target. That is compared before anything is written.",
  trimmed: () => "Part of it is cut off, and must hold a declared value. That is compared before anything is written.",
  carried: () => "It passes through under its own name.",
  dropped: (by) => `It is left out: ${by}`,
  unplaced: () => "It has no place in the target.",
  filled: () => "Every element of it is written exactly once.",
  padded: () => "Every element of it is written exactly once, some of them with a declared value.",
  declared: () => "All of it is a declared value.",
  initialised: (by) => `Nothing fills it, as declared: ${by}`,
  missing: () => "Nothing fills it.",
};
const TIED_WORDS = {
  source: (by) => `Its bytes must equal those of ${by}, which moves in its place.`,
  target: (by) => `It shares its storage with ${by}.`,
};

const OUTCOME_WORDS = { f: "fired", n: "no match", o: "outside its scope", x: "not tried: a converter has fired" };

class Inspector {
  /** @param calls  choose(side, place), search(query), close() */
  constructor(element, calls) {
    this.element = element;
    this.calls = calls;
    this.showRules();
  }

  // ---- without a tensor ----

  showRules() {
    const parts = [make("h2", {}, "Rules ", make("span", {}, count(facts.rules.length)))];
    if (facts.errors.length) parts.push(make("p", { class: "quiet" }, "There is no plan. This is what the rules come to as far as they fit."));
    parts.push(facts.rules.length ? this.ruleList() : make("p", { class: "quiet" }, "The mapping has no rules."));
    if (facts.exceptions.length) parts.push(make("h3", {}, "Declared exceptions"), this.exceptionList());
    if (facts.notes.length) {
      parts.push(make("h3", {}, "Notes"), make("ul", { class: "notes" }, ...facts.notes.map((note) => make("li", {}, visible(note)))));
    }
    parts.push(
      make(
        "p",
        { class: "quiet help" },
        "Select a tensor to see what becomes of it. ",
        make("kbd", {}, "/"),
        " search, arrows move, ",
        make("kbd", {}, "Enter"),
        " selects, ",
        make("kbd", {}, "Esc"),
        " steps back.",
      ),
    );
    this.element.replaceChildren(...parts);
  }

  ruleList() {
    const items = facts.rules.map((rule, number) => {
      const show = { click: () => this.calls.search(`rule:${number + 1}`) };
      const spent = `${count(rule.sources, "source")} → ${count(rule.targets, "target")} · ${formatBytes(rule.bytes)}`;
      return make(
        "li",
        { class: rule.sources ? "" : "unused" },
        make("span", { class: "number" }, String(number + 1)),
        make("button", { type: "button", class: "link code", title: "Show what it moved", on: show }, visible(rule.text)),
        make("p", {}, rule.sources ? spent : "did not fire"),
      );
    });
    return make("ol", { class: "rules" }, ...items);
  }

  exceptionList() {
    const items = facts.exceptions.map(([fate, by, tensors]) =>
      make("li", {}, make("span", { class: `fate ${fate}` }, fate), ` ${count(tensors)}: `, make("code", {}, visible(by))),
    );
    return make("ul", { class: "notes" }, ...items);
  }

  // ---- one tensor ----

  showTensor(side, place) {
    const kind = side.kind(place);
    const number = side.stepOf[place];
    const step = number >= 0 ? stepAt(number) : null;
    const words = kind.fate === "tied" ? TIED_WORDS[side.name] : FATE_WORDS[kind.fate];
    const parts = [
      make("button", { type: "button", class: "link close", "aria-label": "Back to the rules", on: { click: () => this.calls.close() } }, "rules"),
      make("h2", {}, side.name === "source" ? "Source tensor" : "Target tensor"),
      make("p", { class: "key" }, visible(side.keys[place])),
      make("p", {}, make("span", { class: `fate ${kind.fate}` }, kind.fate), ` ${formatSpec(kind)} · ${formatBytes(kind.bytes)}`),
      make("p", { class: "quiet" }, facts.errors.length ? "There is no plan. As far as the rules fit: " : "", visible(words(kind.by))),
    ];
    if (step) parts.push(...this.stepParts(side, place, step, kind));
    this.element.replaceChildren(...parts);
    this.element.scrollTop = 0;
  }

  stepParts(side, place, step, kind) {
    const program = programAt(step.program);
    const slots = this.slots(step, program);
    const parts = [make("h3", {}, kind.rules.length > 1 ? "Rules" : "Rule"), ...this.ruleParts(kind.rules)];
    for (const [before, after] of program.casts) parts.push(make("p", {}, `${before} is cast to ${after}.`));
    const drawn = this.diagrams(side, place, step, program, slots);
    if (drawn.length) parts.push(make("h3", {}, "What lands where"), ...drawn);
    const [from, to] = [step.sources, step.targets].map((places) => [...new Set(places)]);
    parts.push(make("h3", {}, "From ", make("span", {}, count(from.length))), this.keyList(sides[0], from, place, side));
    parts.push(make("h3", {}, "To ", make("span", {}, count(to.length))), this.keyList(sides[1], to, place, side));
    parts.push(this.copyList(side, place, step, program, slots));
    if (step.trace >= 0) parts.push(...this.weightParts(facts.traces[step.trace]), this.traceList(facts.traces[step.trace]));
    return parts;
  }

  /** Everything that a copy of a step can read: sources, declared values, then temporaries. */
  slots(step, program) {
    const sources = step.sources.map((place, slot) => ({ name: sides[0].keys[place], ...program.sources[slot] }));
    const temporaries = program.temporaries.map(({ dtype, shape }, number) => ({ name: `temporary ${number}`, dtype, shape }));
    return [...sources, ...program.constants, ...temporaries];
  }

  ruleParts(rules) {
    if (!rules.length) return [make("p", { class: "quiet" }, "No rule touches it.")];
    return rules.map((rule) =>
      make("p", { class: "rule" }, make("span", { class: "number" }, String(rule + 1)), make("code", {}, visible(facts.rules[rule].text))),
    );
  }

  /** The outputs that have to do with a tensor, each with its name. */
  outputs(side, place, step, program) {
    const names = [...program.temporaries.map((_, number) => `temporary ${number}`), ...step.targets.map((target) => sides[1].keys[target])];
    const isAgain = (number) => names.indexOf(names[number]) < number; // made again, it is only compared
    const written = [...program.temporaries, ...program.targets].map((output, number) => ({ output, name: names[number], again: isAgain(number) }));
    const all = [...written, ...program.cuts];
    if (side.name === "target") {
      const made = [...program.temporaries.map(() => true), ...step.targets.map((target) => target === place)];
      return all.filter((_, number) => made[number]);
    }
    const direct = all.filter(({ output }) => output.copies.some((copy) => step.sources[copy.source] === place));
    return program.temporaries.length ? all : direct;
  }

  diagrams(side, place, step, program, slots) {
    const asked = side.name === "source" ? step.sources.indexOf(place) : -1;
    const all = this.outputs(side, place, step, program);
    const outputs = all.filter(({ name }, number) => all.findIndex((each) => each.name === name) === number);
    const first = outputs[0];
    if (outputs.length === 1 && first.output.copies.length === 1 && !program.temporaries.length) {
      const copy = first.output.copies[0];
      const whole = slots[copy.source].shape;
      if (copy.loops.length <= 1 && String(whole) === String(first.output.shape)) {
        return [make("p", {}, "The whole tensor, element for element.")];
      }
    }
    const isShared = new Set(step.sources).size < step.sources.length;
    if (outputs.length > 1 && asked >= 0 && !isShared && !program.temporaries.length) return this.divided(asked, outputs, slots);
    const drawn = outputs.slice(0, DRAWN_TARGETS).map(({ output, name }) => drawDiagram(output, name, slots, asked));
    if (outputs.length > DRAWN_TARGETS) drawn.push(make("p", { class: "quiet" }, `… and ${count(outputs.length - DRAWN_TARGETS, "more target")}`));
    return drawn.filter(Boolean);
  }

  /** Draw a source that is divided among several targets: the same picture, the other way round. */
  divided(asked, outputs, slots) {
    const copies = outputs.flatMap(({ output }, number) =>
      output.copies
        .filter((copy) => copy.source === asked)
        .map((copy) => ({
          source: number,
          sourceStart: copy.targetStart,
          targetStart: copy.sourceStart,
          loops: copy.loops.map(([size, read, write]) => [size, write, read]),
        })),
    );
    const { name, dtype, shape } = slots[asked];
    const parts = outputs.map(({ output, name: target }) => ({ name: target, dtype: output.dtype, shape: output.shape }));
    const drawn = drawDiagram({ dtype, shape, copies }, name, parts, -1);
    return drawn ? [drawn] : [];
  }

  keyList(side, places, asked, askedSide) {
    const list = make("ul", { class: "keys" });
    const item = (place) => {
      const isAsked = side === askedSide && place === asked;
      const button = make("button", { type: "button", class: "link code", "aria-current": isAsked || undefined, on: { click: () => this.calls.choose(side, place) } }, visible(side.keys[place]));
      return make("li", {}, button);
    };
    list.append(...places.slice(0, LISTED_KEYS).map(item));
    if (places.length > LISTED_KEYS) {
      const showAll = () => list.replaceChildren(...places.map(item));
      list.append(make("li", {}, make("button", { type: "button", class: "link", on: { click: showAll } }, `show all ${count(places.length)}`)));
    }
    return list;
  }

  copyList(side, place, step, program, slots) {
    const isAnother = (slot) => slot < step.sources.length && step.sources[slot] !== place;
    const isOther = (slot) => side.name === "source" && (slots[slot].isDeclared || isAnother(slot));
    const lines = [];
    for (const { output, name, again } of this.outputs(side, place, step, program)) {
      const sign = again ? "==" : "<-";
      for (const copy of output.copies) {
        if (isOther(copy.source)) continue;
        const slot = slots[copy.source];
        const cast = slot.dtype === output.dtype ? "" : `  cast ${slot.dtype} to ${output.dtype}`;
        const to = regionText(copy.targetStart, targetLoops(copy), output.shape);
        const from = slot.isDeclared ? "" : regionText(copy.sourceStart, sourceLoops(copy), slot.shape);
        lines.push(`${name}${to} ${sign} ${slot.name}${from}${cast}`);
      }
    }
    const shown = lines.slice(0, LISTED_COPIES).map(visible);
    if (lines.length > shown.length) shown.push(`… and ${count(lines.length - shown.length)} more copies`);
    return make("details", {}, make("summary", {}, `Copies, in words (${count(lines.length)})`), make("pre", {}, shown.join("\n")));
  }

  /** Every rule that was tried; rules that did nothing are put together. */
  /** What is stored for a quantised weight, by an example, and what rules call it. */
  weightParts(trace) {
    if (!trace.weight) return [];
    const [key, weight] = [trace.key, trace.weight].map((name) => make("code", {}, visible(name)));
    const about = make("p", { class: "quiet" }, "As ", key, " belongs to ", weight, ": rules name that one, and all that is stored for it goes along.");
    const stored = trace.stored.map((name) => make("li", {}, make("code", {}, visible(name))));
    return [make("h3", {}, "Quantised weight"), about, make("ul", { class: "notes stored" }, ...stored)];
  }

  traceList(trace) {
    const items = [];
    let fired = 0;
    [...trace.outcomes].forEach((letter, number) => {
      const rule = visible(facts.rules[number].text);
      const outcome = make("span", { class: letter === "f" ? "fired" : "quiet" }, OUTCOME_WORDS[letter]);
      const item = make("li", {}, make("span", { class: "number" }, String(number + 1)), make("code", {}, rule), make("br"), outcome);
      if (letter === "f") {
        const [before, ...after] = trace.names[fired++];
        item.append(make("span", { class: "quiet" }, ` ${visible(before)} → ${after.map(visible).join(", ")}`));
      }
      items.push(item);
    });
    const title = `Rules tried (${count(items.length)})`;
    const about = make("p", { class: "quiet" }, "On ", make("code", {}, visible(trace.key)), ", which stands for all that differ from it in indices only.");
    return make("details", {}, make("summary", {}, title), about, make("ol", { class: "tried" }, ...items));
  }
}
