// The page: what is asked for, what is heard, and what adaptation does.

import { Chart, happened } from "./chart.js";
import { microphone, recording } from "./sound.js";
import { Stream } from "./stream.js";
import { Transcript } from "./transcript.js";

const $ = (id) => document.getElementById(id);
const chart = new Chart($("chart")), transcript = new Transcript($("transcript"), $("empty"), $("spoken"));
let info = null, stream = null, source = null, token = "", frozen = false, utterances = new Map(), backlog = 0, closed = null;

// ---------------------------------------------------------------------------------------------------------------- the server

async function ask() {
  const answer = await fetch("info", { headers: token ? { Authorization: `Bearer ${token}` } : {} }).catch(() => null);
  const found = answer ? await answer.json().catch(() => null) : null;
  if (answer?.ok && found) return meet(found);
  status("failed", "Not connected");
  $("token-row").hidden = found?.error?.code !== "UNAUTHENTICATED";
  if ($("token-row").hidden) return complain(found?.error?.message ?? "The server does not answer; is it still running?");
  status("idle", "A token is needed");
  if (token) complain("The server does not know this token.");
  $("token").focus();
}

function meet(found) {
  info = found;
  $("token-row").hidden = true;
  $("model").hidden = false;
  $("model").textContent = `${info.model} · ${info.language}`;
  $("about").textContent = `asrlife ${info.version}`;
  $("method").replaceChildren(new Option("the server's choice", ""), ...Object.keys(info.methods).map((name) => new Option(name, name)));
  $("method").value = "dsuta" in info.methods ? "dsuta" : "";
  fields();
  $("start").disabled = false;
  status("ready", "Ready");
}

function fields() {
  const settings = Object.entries(info.methods[$("method").value] ?? {});
  $("settings").hidden = !settings.length;
  $("settings-list").replaceChildren(...settings.map(([name, usual]) => {
    const label = Object.assign(document.createElement("label"), { textContent: name });
    label.append(Object.assign(document.createElement("input"), { type: "text", name, placeholder: usual, autocomplete: "off", spellcheck: false }));
    return label;
  }));
}

// ---------------------------------------------------------------------------------------------------------------- a stream

function config(rate) {
  const chosen = [...$("settings-list").querySelectorAll("input")].filter((input) => input.value.trim());
  const adaptation = { method: $("method").value, settings: Object.fromEntries(chosen.map((input) => [input.name, input.value.trim()])) };
  if ($("key").value) Object.assign(adaptation, { adaptation_key: $("key").value, persist: "KEY" });
  return { encoding: "PCM16", sample_rate_hz: rate, interim: { enable: true, min_interval_ms: 200 }, cursors: true, adaptation };
}

async function start() {
  complain("");
  busy(true);
  status("live", "Opening");
  try {
    const chosen = document.querySelector("input[name=source]:checked").value;
    source = chosen === "file" ? await recording($("file").files[0], $("at-once").checked) : await microphone();
    clear();
    stream = new Stream(config(source.rate), token, heard);
    $("start").textContent = "Stop";
    $("start").disabled = false;
    await source.play(stream, (peak) => { $("level").value = peak; });
  } catch (error) {
    complain(error.message);
    if (!stream) status("ready", "Ready");
  }
  finish();
}

function finish() {
  $("level").value = 0;
  if (!stream) return busy(false);
  if (closed || $("start").disabled) return;
  stream.control("FINISH");
  $("start").disabled = true;
  status("live", "Finishing");
}

function clear() {
  utterances = new Map();
  [frozen, backlog, closed] = [false, 0, null];
  transcript.clear();
  $("notices").replaceChildren();
  $("totals").textContent = "";
  $("freeze").setAttribute("aria-pressed", "false");
  redraw();
}

function utterance(index) {
  const known = Number(index ?? 0);
  if (!utterances.has(known)) utterances.set(known, { index: known, before: NaN, after: NaN, steps: 0, drift: NaN, resets: [], skipped: "", moved: false, note: "" });
  return utterances.get(known);
}

const heard = {
  opened({ config: { adaptation } }) {
    status("live", source.atOnce === undefined ? "Listening" : "Reading");
    $("reset").disabled = $("freeze").disabled = adaptation.method === "none";
    $("freeze").textContent = "Freeze";
    $("totals").textContent = adaptation.method === "none" ? "no adaptation" : `adapting with ${adaptation.method}`;
  },
  result(found) { transcript.result(found); redraw(); },
  refinement(found) {
    const each = utterance(found.utterance_index);
    Object.assign(each, { before: found.entropy_before ?? NaN, after: found.entropy_after ?? NaN, steps: found.steps ?? 0 });
    transcript.refined(found);
    redraw();
  },
  adaptation_event(event) {
    const each = utterance(event.utterance_index), reason = event.reason ?? "";
    if (event.drift !== undefined && event.kind !== "RESET") each.drift = Number(event.drift);
    if (event.kind === "SKIPPED") { each.skipped = each.skipped || reason || "skipped"; transcript.skipped(each.index, reason); }
    if (event.kind === "SLOW_COMMITTED") each.moved = true;
    if (event.kind === "RESET") { each.resets.push(reason); each.drift = 0; }
    if (event.kind === "RESTORED") notice(event.restored === false ? `The stream starts clean: ${reason}` : `Goes on from what was learnt before${reason ? `: ${reason}` : ""}.`);
    if (event.kind === "PERSIST_FAILED") notice(`Not kept yet: ${reason}`);
    redraw();
  },
  cursors(found) { backlog = Number(found.backlog_ms ?? 0) / 1000; redraw(); },
  warning({ text }) { notice(text); },
  closed(found) {
    closed = found;
    const seconds = (text) => `${parseFloat(text ?? "0").toFixed(1)} s`;
    $("totals").textContent = `${seconds(found.audio)} of sound, ${seconds(found.compute)} to recognise, ${seconds(found.adaptation)} to adapt`;
    stream.close();
  },
  error(code, message) { complain(code ? `${message} (${code})` : message); if (code === "UNAUTHENTICATED") $("token-row").hidden = false; },
  end() {
    source?.stop();
    transcript.settle();
    [stream, backlog] = [null, 0];
    busy(false);
    status(closed ? "ready" : "failed", closed ? "Finished" : "Ended early");
    redraw();
  },
};

// ---------------------------------------------------------------------------------------------------------------- what is shown

function redraw() {
  const all = [...utterances.values()].sort((a, b) => a.index - b.index), stepped = all.filter((each) => Number.isFinite(each.after));
  chart.show(all);
  const sum = (of) => all.reduce((total, each) => total + of(each), 0);
  const saved = stepped.length ? 1 - stepped.reduce((total, each) => total + each.after, 0) / stepped.reduce((total, each) => total + each.before, 0) : NaN;
  const drift = all.filter((each) => Number.isFinite(each.drift)).at(-1)?.drift;
  $("n-utterances").textContent = transcript.finals;
  $("n-steps").textContent = sum((each) => each.steps);
  $("n-entropy").textContent = Number.isFinite(saved) ? `${Math.round(100 * saved)} %` : "–";
  $("n-drift").textContent = drift === undefined ? "–" : Number(drift.toPrecision(2));
  $("n-resets").textContent = sum((each) => each.resets.length);
  $("n-backlog").textContent = `${(backlog + (stream?.unsentSeconds ?? 0)).toFixed(1)} s`;
  $("rows").replaceChildren(...all.map(row));
}

function row(each) {
  const number = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
  const cells = [each.index + 1, number(each.before, 3), number(each.after, 3), each.steps, number(each.drift, 3), happened(each)];
  const made = document.createElement("tr");
  made.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return made;
}

function notice(text) {
  if ([...$("notices").children].some((each) => each.textContent === text)) return;
  $("notices").prepend(Object.assign(document.createElement("li"), { textContent: text }));
  while ($("notices").children.length > 5) $("notices").lastChild.remove();
}

function complain(text) {
  $("alert").hidden = !text;
  $("alert-text").textContent = text;
}

function status(state, text) {
  $("status").dataset.state = state;
  $("status-text").textContent = text;
}

function busy(yes) {
  $("source").disabled = $("adaptation").disabled = yes;
  $("start").disabled = yes || !info;
  if (yes) return;
  $("start").textContent = "Start";
  $("reset").disabled = $("freeze").disabled = true;
}

// ---------------------------------------------------------------------------------------------------------------- what is done

$("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  if (source && stream) source.stop();
  else start();
});
$("reset").addEventListener("click", () => stream?.control("RESET_ADAPTATION"));
$("freeze").addEventListener("click", () => {
  frozen = !frozen;
  stream?.control(frozen ? "FREEZE" : "UNFREEZE");
  $("freeze").setAttribute("aria-pressed", String(frozen));
});
$("source").addEventListener("change", () => {
  const file = document.querySelector("input[name=source]:checked").value === "file";
  $("file-row").hidden = !file;
});
$("method").addEventListener("change", fields);
$("alert-close").addEventListener("click", () => complain(""));
$("token-use").addEventListener("click", () => { token = $("token").value.trim(); complain(""); ask(); });
$("token").addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); $("token-use").click(); } });
setInterval(() => { if (stream) redraw(); }, 500);
ask();
