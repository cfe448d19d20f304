// Entropy before and after the steps of each utterance, and below it how far the carried weights are from where they began.

const LEFT = 44, RIGHT = 14, TOP = 26, GAP = 44, BOTTOM = 24, LOWER = 56; // px
const WIDTH = 12; // px that an utterance needs

const element = (name, attributes, text) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  if (text !== undefined) made.textContent = text;
  return made;
};

// A round number at or above a value.
function above(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((times) => times * unit >= value * 0.999) * unit;
}

export class Chart {
  constructor(svg) {
    this.svg = svg;
    this.utterances = [];
    new ResizeObserver(() => this.draw()).observe(svg);
  }

  show(utterances) {
    this.utterances = utterances;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth, height = this.svg.clientHeight;
    if (!width) return;
    this.svg.replaceChildren();
    const room = Math.max(1, Math.floor((width - LEFT - RIGHT) / WIDTH));
    this.seen = this.utterances.slice(-room);
    const slots = Math.max(this.seen.length, Math.min(room, 16));
    this.x = (n) => LEFT + ((n + 0.5) * (width - LEFT - RIGHT)) / slots;
    this.right = width - RIGHT;
    const floor = height - BOTTOM;
    this.resets(floor);
    this.upper = this.axis("Entropy, nats", this.seen.flatMap((each) => [each.before, each.after]), TOP, floor - LOWER - GAP);
    this.lower = this.axis("Drift of the carried weights", this.seen.map((each) => each.drift), floor - LOWER, floor);
    this.drift(floor);
    this.seen.forEach((each, n) => this.utterance(each, n, floor));
    this.svg.setAttribute("aria-label", this.described());
  }

  axis(name, values, top, bottom) {
    const known = values.filter(Number.isFinite), most = known.length && Math.max(...known) > 0 ? above(Math.max(...known) * 1.04) : 1;
    const y = (value) => bottom - (value / most) * (bottom - top);
    this.put("text", { x: 0, y: top - 12, class: "name" }, name);
    const lines = bottom - top > 80 ? [0, 0.5, 1] : [0, 1];
    for (const part of lines) {
      this.put("line", { x1: LEFT, x2: this.right, y1: y(part * most), y2: y(part * most), class: "grid" });
      if (known.length) this.put("text", { x: LEFT - 8, y: y(part * most) + 4, "text-anchor": "end" }, String(Number((part * most).toPrecision(2))));
    }
    return y;
  }

  utterance(each, n, floor) {
    const x = this.x(n);
    const group = this.put("g", {});
    group.append(element("title", {}, told(each)));
    const put = (name, attributes) => group.append(element(name, attributes));
    if (Number.isFinite(each.before) && Number.isFinite(each.after)) {
      put("line", { x1: x, x2: x, y1: this.upper(each.before), y2: this.upper(each.after), class: each.after <= each.before ? "fall" : "rise" });
      put("circle", { cx: x, cy: this.upper(each.before), r: 4, class: "before" });
      put("circle", { cx: x, cy: this.upper(each.after), r: 5, class: "after" });
    } else if (each.skipped) {
      const y = this.upper(0) - 7;
      put("path", { d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`, class: "skipped" });
    }
    const stride = Math.ceil(28 / (this.x(1) - this.x(0)));
    if (n % stride === 0) this.put("text", { x, y: floor + 17, "text-anchor": "middle" }, String(each.index + 1));
  }

  // The weights stay where they are until they move, or until a reset.
  drift(floor) {
    const known = this.seen.filter((each) => Number.isFinite(each.drift));
    if (!known.length) {
      if (this.seen.length) this.put("text", { x: LEFT + 8, y: floor - LOWER / 2 + 4 }, "nothing is carried from one utterance to the next");
      return;
    }
    const corners = [], marks = [];
    let now = null;
    const move = (x, drift) => { corners.push([x, now ?? drift], [x, drift]); now = drift; };
    this.seen.forEach((each, n) => {
      if (now !== null && each.resets.includes("requested")) move(this.between(n, -1), 0);
      if (Number.isFinite(each.drift)) move(this.x(n), each.drift);
      if (each.moved && Number.isFinite(each.drift)) marks.push([this.x(n), each.drift]);
    });
    const line = corners.map(([x, drift]) => `${x} ${this.lower(drift)}`).join("L");
    this.put("path", { d: `M${corners[0][0]} ${floor}L${line}L${corners.at(-1)[0]} ${floor}Z`, class: "area" });
    this.put("path", { d: `M${line}`, class: "drift" });
    marks.forEach(([x, drift]) => this.put("rect", { x: x - 4, y: this.lower(drift) - 4, width: 8, height: 8, rx: 1.5, class: "carried" }));
  }

  between(n, side) {
    return this.x(n) + (side * (this.x(1) - this.x(0))) / 2;
  }

  // A reset that was asked for comes before the utterance that it is told with, one of the method's own after it.
  resets(floor) {
    this.seen.forEach((each, n) => each.resets.forEach((reason) => {
      const x = this.between(n, reason === "requested" ? -1 : 1), end = x > this.right - 120;
      this.put("line", { x1: x, x2: x, y1: TOP - 20, y2: floor, class: "reset" });
      this.put("text", { x: end ? x - 6 : Math.max(x + 6, 100), y: TOP - 12, "text-anchor": end ? "end" : "start", class: "why" }, `reset: ${reason || "by the method"}`);
    }));
  }

  put(name, attributes, text) {
    const made = element(name, attributes, text);
    this.svg.append(made);
    return made;
  }

  described() {
    const stepped = this.utterances.filter((each) => Number.isFinite(each.after));
    if (!stepped.length) return "Nothing has been adapted yet";
    const last = stepped.at(-1), resets = this.utterances.reduce((sum, each) => sum + each.resets.length, 0);
    return `Entropy by utterance, ${stepped.length} adapted, ${resets} resets. The last: ${told(last)}`;
  }
}

const nats = (value) => (Number.isFinite(value) ? value.toFixed(3) : "–");

export function happened(each) {
  return [each.skipped && `no step: ${each.skipped}`, each.moved && "the carried weights moved", ...each.resets.map((reason) => `reset: ${reason || "by the method"}`), each.note].filter(Boolean).join("; ");
}

export function told(each) {
  const entropy = Number.isFinite(each.after) ? `entropy ${nats(each.before)} to ${nats(each.after)} in ${each.steps} steps` : "";
  return [`utterance ${each.index + 1}`, entropy, Number.isFinite(each.drift) && `drift ${each.drift.toPrecision(3)}`, happened(each)].filter(Boolean).join(", ");
}
