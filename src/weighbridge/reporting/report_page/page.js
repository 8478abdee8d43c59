// Put the page together: what is wrong, the summary, the two trees, and what the keyboard does.

const LISTED_ERRORS = 50;
const byId = (id) => document.getElementById(id);

// What is wrong

function errorParts(error) {
  const named = [["expected", error.expected], ["got", error.got], ["because", error.because], ["try", error.hint]];
  const lines = named.filter(([, text]) => text).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, visibleLines(text))]);
  const parts = [make("span", { class: "code" }, error.code), make("span", { class: "what" }, visible(error.what))];
  const head = make("h3", {}, ...parts);
  const where = error.where ? make("p", { class: "key" }, visibleLines(error.where)) : null;
  const meaning = make("details", {}, make("summary", {}, `what ${error.code} means`), make("p", {}, facts.codes[error.code]));
  return make("article", {}, head, where, make("dl", {}, ...lines), whereButton(error), meaning);
}

/** Show the tensors that an error is about, where its place reads like keys. */
function whereButton(error) {
  const query = (error.where ?? "").split(", ")[0].replace(/\{[^}]*\}/g, "*");
  if (!query.includes(".") || /\s/.test(query)) return null;
  return make("button", { type: "button", class: "link", on: { click: () => setQuery(query) } }, "show in the trees");
}

function visibleLines(text) {
  return text.split("\n").map(visible).join("\n");
}

function showErrors() {
  if (!facts.errors.length) return;
  const [whole, ...problems] = facts.errors;
  const section = byId("errors");
  const title = problems.length ? `${count(problems.length, "problem")}` : "The plan failed";
  section.append(make("h2", {}, title), errorParts(whole), ...problems.slice(0, LISTED_ERRORS).map(errorParts));
  const hidden = problems.slice(LISTED_ERRORS);
  if (hidden.length) {
    const more = make("button", { type: "button" }, `show ${count(hidden.length)} more`);
    more.addEventListener("click", () => more.replaceWith(...hidden.map(errorParts)));
    section.append(more);
  }
  section.hidden = false;
}

// The summary

/** Count tensors and bytes by fate. */
function fatesOf(side) {
  const fates = new Map();
  for (const spec of side.specs) {
    const [, , bytes, fate] = facts.kinds[spec];
    const sum = fates.get(fate) ?? { tensors: 0, bytes: 0 };
    sum.tensors += 1;
    sum.bytes += bytes;
    fates.set(fate, sum);
  }
  return fates;
}

function sideFigure(side, title) {
  const fates = fatesOf(side);
  const all = side.bytesBefore[side.keys.length];
  const bar = make("div", { class: "shares", "aria-hidden": "true" });
  const list = make("ul", { class: "fates" });
  for (const [fate, sum] of fates) {
    const share = make("span", { class: `share ${fate}` });
    share.style.flexGrow = String(all ? sum.bytes / all : sum.tensors / side.keys.length);
    bar.append(share);
    const show = { click: () => setQuery(`fate:${fate}`) };
    list.append(make("li", {}, make("button", { type: "button", class: "link", on: show }, make("span", { class: `fate ${fate}` }, fate), ` ${count(sum.tensors)}`), ` ${formatBytes(sum.bytes)}`));
  }
  return figure(title, count(side.keys.length, "tensor"), formatBytes(all), bar, list);
}

function figure(title, value, beside, ...parts) {
  return make("div", { class: "figure" }, make("h2", {}, title), make("p", { class: "value" }, value, make("small", {}, beside)), ...parts);
}

function note(text) {
  return make("p", { class: "quiet" }, visible(text));
}

function showSummary() {
  const parts = [sideFigure(sides[0], "Source"), sideFigure(sides[1], "Target")];
  if (!facts.errors.length) parts.push(...costFigures());
  byId("summary").append(...parts);
}

function costFigures() {
  const { cost, exact, lossy, conditions } = facts;
  const reasons = exact ? [note("The inverse gives back every byte of the source.")] : lossy.map(note);
  reasons.push(...conditions.map((text) => note(`If equal, which is compared before anything is written: ${text}`)));
  const temporary = cost.temporary_bytes ? `${formatBytes(cost.temporary_bytes)} of them temporaries` : "no temporaries";
  const copies = cost.copies === 1 ? "1 copy" : `${count(cost.copies)} copies`;
  const spent = `in ${count(facts.programs.length, "program")}; ${formatBytes(cost.read_bytes)} read, ${formatBytes(cost.written_bytes)} written`;
  return [
    figure("Way back", exact ? "exact" : "lossy", "", ...reasons),
    figure("Peak memory", formatBytes(cost.buffer_bytes), "", note(`of buffers beside the result, ${temporary}`)),
    figure("Work", copies, "", note(spent)),
  ];
}

function showHeads() {
  const state = facts.errors.length ? "failed" : facts.exact ? "exact" : "lossy";
  const words = { failed: "does not fit", exact: "fits, exact", lossy: "fits, lossy" };
  byId("title").textContent = visible(facts.name || `${count(facts.rules.length, "rule")}`);
  byId("verdict").textContent = `${words[state]} · read ${facts.reading === "mapped" ? "as mapped" : visible(facts.reading)}`;
  byId("verdict").classList.add(state);
  sides.forEach((side) => (byId(`${side.name}-count`).textContent = count(side.keys.length)));
  byId("footer").textContent = `weighbridge ${facts.version}${facts.hash ? ` · plan ${facts.hash.slice(0, 16)}` : ""}`;
}

// The trees

let selected = null; // { side, place }

function partners(tree, place) {
  const number = place >= 0 ? tree.side.stepOf[place] : -1;
  if (number < 0) return [];
  const step = stepAt(number);
  return [...(tree.side === sides[0] ? step.targets : step.sources)].sort((a, b) => a - b);
}

/** Light up what a tensor is made of, or goes into, on the other side; that of the selected one when there is none. */
function light(tree, place) {
  const [from, at] = place >= 0 ? [tree, place] : [trees.find((each) => each.side === selected?.side), selected?.place ?? -1];
  for (const each of trees) each.light(!from || each === from ? [] : partners(from, at));
}

function select(tree, place) {
  selected = { side: tree.side, place };
  for (const each of trees) each.select(each === tree ? place : -1);
  light(tree, place);
  showPartner(tree, place);
  inspector.showTensor(tree.side, place);
}

/** Bring the first tensor into view that the selected one is made of, or goes into. */
function showPartner(tree, place) {
  const [first] = partners(tree, place);
  if (first !== undefined) trees.find((each) => each !== tree).reveal(first);
}

function showSelected() {
  const tree = trees.find((each) => each.side === selected.side);
  tree.reveal(selected.place);
  showPartner(tree, selected.place);
}

function choose(side, place) {
  const tree = trees.find((each) => each.side === side);
  if (tree.matches && tree.matches[place + 1] === tree.matches[place]) setQuery("");
  select(tree, place);
  tree.reveal(place);
}

function unselect() {
  selected = null;
  for (const tree of trees) {
    tree.select(-1);
    tree.light([]);
  }
  inspector.showRules();
}

let hovered = "";
const calls = {
  select,
  hover: (tree, place) => {
    const now = `${tree.side.name} ${place}`;
    if (now === hovered) return;
    hovered = now;
    light(tree, place);
  },
};

// The search

function setQuery(query) {
  byId("query").value = query;
  runSearch();
}

function runSearch() {
  const matches = search(byId("query").value);
  trees.forEach((tree, number) => tree.filter(matches && matches[number]));
  if (!matches && selected) showSelected();
  const totals = matches?.map((before, number) => count(before[before.length - 1], sides[number].name));
  byId("found").textContent = totals ? totals.join(" · ") : "";
}

// The keyboard, the theme, the printer

function press(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const isInQuery = event.target === byId("query");
  if (event.key === "/" && !isInQuery) {
    event.preventDefault();
    byId("query").focus();
    byId("query").select();
  } else if (event.key === "Escape") {
    event.preventDefault();
    stepBack(isInQuery);
  } else if (isInQuery && (event.key === "Enter" || event.key === "ArrowDown")) {
    event.preventDefault();
    const tree = trees.find((each) => each.rows.length) ?? trees[0];
    tree.element.focus();
  }
}

/** Undo one thing: the search if one is in its field, else the selection, else the search. */
function stepBack(isInQuery) {
  const query = byId("query");
  if (isInQuery && query.value) setQuery("");
  else if (isInQuery) query.blur();
  else if (selected) unselect();
  else if (query.value) setQuery("");
}

const systemTheme = matchMedia("(prefers-color-scheme: dark)");

function setTheme(isDark) {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  byId("theme").textContent = isDark ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Switch to ${isDark ? "light" : "dark"} colours`);
}

/** On paper there is nothing to scroll, and no dark page. */
function startPrint() {
  document.documentElement.dataset.printed = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  for (const tree of trees) tree.drawRange(0, Math.min(tree.rows.length, PRINTED_ROWS));
}

function endPrint() {
  document.documentElement.dataset.theme = document.documentElement.dataset.printed;
  for (const tree of trees) tree.draw(true);
}

setTheme(systemTheme.matches);

const trees = sides.map((side) => new Tree(side, byId(side.name), calls));
const inspector = new Inspector(byId("inspector"), { choose, search: setQuery, close: unselect });

showHeads();
showErrors();
showSummary();
byId("query").addEventListener("input", runSearch);
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
systemTheme.addEventListener("change", () => setTheme(systemTheme.matches));
document.addEventListener("keydown", press);
addEventListener("beforeprint", startPrint);
addEventListener("afterprint", endPrint);
setTimeout(loweredKeys, 50); // before the first key is struck
document.documentElement.dataset.ready = "";
