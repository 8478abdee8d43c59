// One layout as a tree of which only the rows in view are in the document.

const ROW_PX = 22;
const SPARE_ROWS = 12;
const OPENED_MATCHES = 300; // so few matches are shown at once, without opening anything
const PRINTED_ROWS = 400;
const ORDINARY = new Set(["moved", "filled"]);

class Tree {
  /** @param calls  select(place or -1), hover(place or -1) */
  constructor(side, element, calls) {
    this.side = side;
    this.element = element;
    this.calls = calls;
    this.opened = new Set();
    this.openedFound = new Set();
    this.matches = null;
    this.lit = [];
    this.active = 0; // a row of the side
    this.selected = -1; // a place
    this.space = make("div", { class: "space", role: "none" });
    element.append(this.space);
    element.addEventListener("scroll", () => this.draw(), { passive: true });
    element.addEventListener("keydown", (event) => this.press(event));
    element.addEventListener("click", (event) => this.click(event));
    element.addEventListener("mousemove", (event) => this.hover(this.rowAt(event)));
    element.addEventListener("mouseleave", () => this.hover(-1));
    new ResizeObserver(() => this.draw()).observe(element);
    this.openFirst();
    this.layOut();
  }

  /** Open the modules at the top, unless they are too many to be an overview. */
  openFirst() {
    const { names, kinds, setSizes, after } = this.side;
    for (let row = 0; row < names.length; row = after[row]) {
      if (kinds[row] === MODULE && setSizes[row] <= 8 && setSizes[row + 1] <= 16) this.opened.add(row);
    }
  }

  found(row) {
    return this.matches[this.side.stop[row]] - this.matches[this.side.first[row]];
  }

  isOpen(row) {
    return this.matches ? this.openedFound.has(row) : this.opened.has(row);
  }

  /** List the rows that are to be seen, from what is open and what was searched for. */
  layOut() {
    const { kinds, after } = this.side;
    this.rows = [];
    this.indexOf = new Map();
    for (let row = 0; row < kinds.length; ) {
      if (this.matches && !this.found(row)) {
        row = after[row];
        continue;
      }
      this.indexOf.set(row, this.rows.length);
      this.rows.push(row);
      row = kinds[row] === TENSOR || this.isOpen(row) ? row + 1 : after[row];
    }
    if (!this.indexOf.has(this.active)) this.active = this.shownParent(this.active);
    this.space.style.height = `${this.rows.length * ROW_PX}px`;
    this.draw(true);
  }

  /** The nearest row around a row that is to be seen; the first one if there is none. */
  shownParent(row) {
    while (row >= 0 && !this.indexOf.has(row)) row = this.side.parents[row];
    return row >= 0 ? row : (this.rows[0] ?? -1);
  }

  filter(matches) {
    this.matches = matches;
    this.openedFound = new Set();
    if (matches && matches[matches.length - 1] <= OPENED_MATCHES) {
      this.side.kinds.forEach((kind, row) => kind !== TENSOR && this.found(row) && this.openedFound.add(row));
    }
    this.layOut();
    this.element.scrollTop = 0;
  }

  setOpen(row, isOpen) {
    const opened = this.matches ? this.openedFound : this.opened;
    if (isOpen) opened.add(row);
    else opened.delete(row);
    this.layOut();
  }

  // ---- what is drawn ----

  draw(isChanged = false) {
    const height = this.element.clientHeight;
    const top = this.element.scrollTop;
    const start = Math.max(0, Math.floor(top / ROW_PX) - SPARE_ROWS);
    const stop = Math.min(this.rows.length, Math.ceil((top + height) / ROW_PX) + SPARE_ROWS);
    if (!isChanged && start === this.start && stop === this.stopRow) return;
    this.drawRange(start, stop);
  }

  drawRange(start, stop) {
    [this.start, this.stopRow] = [start, stop];
    const drawn = [];
    for (let index = start; index < stop; index++) drawn.push(this.drawRow(index));
    if (!this.rows.length) drawn.push(make("p", { class: "empty", role: "none" }, this.matches ? "no match" : "no tensors"));
    this.space.replaceChildren(...drawn);
    if (this.rows.length) this.element.setAttribute("aria-activedescendant", this.idOf(this.active));
    else this.element.removeAttribute("aria-activedescendant");
  }

  idOf(row) {
    return `${this.side.name}-${row}`;
  }

  drawRow(index) {
    const row = this.rows[index];
    const { kinds, levels, positions, setSizes, names, first } = this.side;
    const isTensor = kinds[row] === TENSOR;
    const lit = this.litIn(row);
    const classes = ["row", ["module", "group", "tensor"][kinds[row]]];
    if (lit) classes.push(isTensor ? "lit" : "lit-within");
    if (row === this.active) classes.push("active");
    if (isTensor && first[row] === this.selected) classes.push("selected");
    const element = make(
      "div",
      {
        class: classes.join(" "),
        id: this.idOf(row),
        role: "treeitem",
        "data-index": index,
        "aria-level": levels[row] + 1,
        "aria-posinset": positions[row],
        "aria-setsize": setSizes[row],
        "aria-expanded": isTensor ? undefined : String(this.isOpen(row)),
        "aria-selected": isTensor ? String(first[row] === this.selected) : undefined,
      },
      make("span", { class: isTensor ? "twist" : this.isOpen(row) ? "twist open" : "twist closed", "aria-hidden": "true" }),
      make("span", { class: "name" }, visible(names[row]) || "\u00a0"),
      ...(isTensor ? this.tensorNotes(first[row]) : this.moduleNotes(row, lit)),
    );
    element.style.top = `${index * ROW_PX}px`;
    element.style.paddingInlineStart = `${4 + levels[row] * 14}px`;
    return element;
  }

  tensorNotes(place) {
    const kind = this.side.kind(place);
    const notes = [make("span", { class: "spec" }, formatSpec(kind))];
    if (!ORDINARY.has(kind.fate)) notes.unshift(make("span", { class: `fate ${kind.fate}` }, kind.fate));
    return notes;
  }

  moduleNotes(row, lit) {
    const all = this.side.stop[row] - this.side.first[row];
    const tensors = this.matches ? `${count(this.found(row))} of ${count(all)}` : count(all);
    const notes = [make("span", { class: "spec" }, `${tensors} · ${formatBytes(this.side.bytes(row))}`)];
    if (lit) notes.unshift(make("span", { class: "lit-count" }, count(lit)));
    return notes;
  }

  litIn(row) {
    return lowerBound(this.lit, this.side.stop[row]) - lowerBound(this.lit, this.side.first[row]);
  }

  /** Light up tensors, given by their places in ascending order. */
  light(places) {
    this.lit = places;
    this.draw(true);
  }

  // ---- where one is ----

  select(place) {
    this.selected = place;
    this.draw(true);
  }

  /** Open everything around a tensor and bring its row into view. */
  reveal(place) {
    const opened = this.matches ? this.openedFound : this.opened;
    const row = this.side.rowOf[place];
    for (let up = this.side.parents[row]; up >= 0; up = this.side.parents[up]) opened.add(up);
    this.active = row;
    this.layOut();
    this.scrollTo(this.active, "middle");
  }

  scrollTo(row, where = "nearest") {
    const index = this.indexOf.get(row);
    if (index === undefined) return;
    const { scrollTop: top, clientHeight: height } = this.element;
    const at = index * ROW_PX;
    if (at >= top && at + ROW_PX <= top + height) return;
    const nearest = at < top ? at : at + ROW_PX - height;
    this.element.scrollTop = where === "middle" ? at - height / 3 : nearest;
    this.draw(true);
  }

  move(row) {
    this.active = row;
    this.scrollTo(row);
    this.draw(true);
    const isTensor = this.side.kinds[row] === TENSOR;
    this.calls.hover(this, isTensor ? this.side.first[row] : -1);
  }

  rowAt(event) {
    const element = event.target.closest("[data-index]");
    return element ? this.rows[Number(element.dataset.index)] : -1;
  }

  hover(row) {
    const place = row >= 0 && this.side.kinds[row] === TENSOR ? this.side.first[row] : -1;
    this.calls.hover(this, place);
  }

  click(event) {
    const row = this.rowAt(event);
    if (row >= 0) this.choose(row);
  }

  /** Select a tensor; open or close anything else. */
  choose(row) {
    this.active = row;
    if (this.side.kinds[row] === TENSOR) this.calls.select(this, this.side.first[row]);
    else this.setOpen(row, !this.isOpen(row));
  }

  press(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.rows.length) return;
    const call = this.keys[event.key];
    if (!call) return;
    event.preventDefault();
    call.call(this, this.active, this.indexOf.get(this.active));
  }

  moveBy(rows) {
    const index = this.indexOf.get(this.active) + rows;
    this.move(this.rows[Math.max(0, Math.min(this.rows.length - 1, index))]);
  }

  get page() {
    return Math.max(1, Math.floor(this.element.clientHeight / ROW_PX) - 1);
  }

  keys = {
    ArrowDown: () => this.moveBy(1),
    ArrowUp: () => this.moveBy(-1),
    PageDown: () => this.moveBy(this.page),
    PageUp: () => this.moveBy(-this.page),
    Home: () => this.move(this.rows[0]),
    End: () => this.move(this.rows[this.rows.length - 1]),
    Enter: (row) => this.choose(row),
    " ": (row) => this.choose(row),
    ArrowRight: (row) => {
      if (this.side.kinds[row] === TENSOR) return;
      if (this.isOpen(row)) this.moveBy(1);
      else this.setOpen(row, true);
    },
    ArrowLeft: (row) => {
      if (this.side.kinds[row] !== TENSOR && this.isOpen(row)) this.setOpen(row, false);
      else if (this.side.parents[row] >= 0) this.move(this.side.parents[row]);
    },
  };
}

/** How many of the ascending numbers are below a limit. */
function lowerBound(numbers, limit) {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}
