// The text: one entry for each utterance, as it is guessed, heard and refined.

import { compared, written } from "./words.js";

const make = (name, className, text = "") => Object.assign(document.createElement(name), { className, textContent: text });
const nats = (value) => Number(value).toFixed(2);

export class Transcript {
  // `aloud` is what a screen reader reads from: finals and refinements, and no guesses.
  constructor(list, empty, aloud) {
    this.list = list;
    this.panel = list.parentElement;
    this.empty = empty;
    this.aloud = aloud;
    this.clear();
  }

  clear() {
    this.entries = new Map();
    this.finals = 0;
    this.list.replaceChildren();
    this.empty.hidden = false;
  }

  result(found) {
    const entry = this.entry(found), text = found.alternatives?.[0]?.transcript ?? "";
    if (found.is_final) {
      this.finals++;
      entry.heard = text;
      this.aloud.textContent = text;
      const kind = found.adapted ? "refined" : "only";
      this.say(entry, found.adapted ? "adapted" : "heard", kind, [text || "nothing"]);
      return;
    }
    const stable = make("span", "stable", text.slice(0, found.stable_prefix_len ?? 0));
    this.say(entry, "guess", "guess", [stable, text.slice(found.stable_prefix_len ?? 0)]);
  }

  refined(found) {
    const entry = this.entry(found), text = found.alternatives?.[0]?.transcript ?? "";
    const { gone, come } = compared(entry.heard, text), same = entry.heard === text;
    if (!same) {
      this.aloud.textContent = `adapted: ${text}`;
      this.say(entry, "heard", "heard", [written(gone, "del")]);
      entry.item.querySelector(".outcome").before(said("adapted", "refined", [text ? written(come, "mark") : "nothing"]));
    }
    const entropy = found.entropy_before === undefined ? "" : `entropy ${nats(found.entropy_before)} → ${nats(found.entropy_after)} nats`;
    this.close(entry, [same && "unchanged by adaptation", entropy, found.steps && `${found.steps} steps`].filter(Boolean).join(" · "));
  }

  skipped(index, reason) {
    const entry = this.entries.get(index);
    if (entry && !entry.item.querySelector(".outcome").textContent) this.close(entry, `not adapted to: ${reason || "skipped"}`);
  }

  // What was never finished is taken away.
  settle() {
    this.list.querySelectorAll(".guess").forEach((guess) => guess.closest("li").remove());
  }

  entry(found) {
    const index = Number(found.utterance_index ?? 0);
    if (!this.entries.has(index)) {
      const item = make("li", ""), time = make("time", "", `${parseFloat(found.start ?? "0").toFixed(1)} s`);
      item.append(time, make("p", "outcome"));
      this.list.append(item);
      this.entries.set(index, { item, heard: "" });
      this.empty.hidden = true;
    }
    return this.entries.get(index);
  }

  say(entry, tag, kind, words) {
    const follows = this.atEnd;
    entry.item.querySelectorAll(".said").forEach((each) => each.remove());
    entry.item.querySelector("time").after(said(tag, kind, words));
    if (follows) this.panel.scrollTop = this.panel.scrollHeight;
  }

  close(entry, outcome) {
    const follows = this.atEnd;
    entry.item.querySelector(".outcome").textContent = outcome;
    if (follows) this.panel.scrollTop = this.panel.scrollHeight;
  }

  get atEnd() {
    return this.panel.scrollHeight - this.panel.scrollTop - this.panel.clientHeight < 120;
  }
}

function said(tag, kind, words) {
  const line = make("p", `said ${kind}`), text = make("span", "words");
  text.append(...words);
  line.append(make("span", "tag", tag), text);
  return line;
}
