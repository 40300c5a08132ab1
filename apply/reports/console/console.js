// The page of the companion: asks the API (openapi.json) and shows what it says. The token lives in sessionStorage.
"use strict";

const API = "/api/v1";
const KEEP = "rolag.token";
const FAST_MS = 1500, SLOW_MS = 8000, PATIENCE_MS = 20000;
const at = id => document.getElementById(id);

const state = {
  defined: [],          // reports as the API has them
  runs: new Map(),      // id -> {run, node}
  next: null,           // path of the older runs
  timer: null,
  key: null,            // Idempotency-Key of a press that has no answer yet, and its body
  healthy: null,        // as it was said last
  asked: null,          // id of the run that was asked for here
};

// ---- asking the API ----

class Trouble extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function ask(path, options = {}) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), PATIENCE_MS);
  try {
    const got = await fetch(path, {
      ...options, signal: stop.signal, cache: "no-store", credentials: "omit",
      headers: { ...options.headers, Authorization: "Bearer " + sessionStorage.getItem(KEEP) },
    });
    if (got.ok) return got;
    let words = "The companion answered " + got.status + ".";
    try {
      const problem = await got.json();
      words = problem.title + ": " + problem.detail;
    } catch { /* not one of ours: a proxy's, perhaps */ }
    throw new Trouble(got.status, words);
  } catch (error) {
    if (error instanceof Trouble) throw error;
    throw new Trouble(0, "The companion does not answer. It may be starting again; this page goes on trying.");
  } finally {
    clearTimeout(timer);
  }
}

const askJson = async path => (await ask(path)).json();

function showTrouble(text) {
  at("trouble").textContent = text ?? "";
  at("trouble").hidden = !text;
}

function handle(error) {
  if (error.status === 401) leave("The token is not known here (any more). " +
                                  "Look whether all of it was copied, or ask for another one.");
  else showTrouble(error.message);
}

// ---- the token ----

function leave(why) {
  clearTimeout(state.timer);
  sessionStorage.removeItem(KEEP);
  state.runs.clear();
  at("runs").replaceChildren();
  at("inside").hidden = at("leave").hidden = true;
  at("entry").hidden = false;
  at("token").value = "";
  showTrouble(why);
  at("token").focus();
}

async function enter() {
  showTrouble(null);
  try {
    state.defined = (await askJson(API + "/reports")).reports;
  } catch (error) {
    handle(error);
    if (error.status !== 401) state.timer = setTimeout(enter, SLOW_MS);
    return;
  }
  at("entry").hidden = true;
  at("inside").hidden = at("leave").hidden = false;
  showDefined();
  turn();
}

// ---- words ----

const WORDS = {
  queued: "In the queue", waiting: "Waiting for fresh data", building: "Building", writing: "Writing files",
  published: "Published", failed: "Failed", superseded: "Published with another run",
};

function plural(n, one, many = one + "s") {
  return n.toLocaleString() + " " + (n === 1 ? one : many);
}

function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let u = 0;
  for (; n >= 1024 && u + 1 < units.length; u++) n /= 1024;
  return (n >= 10 || Number.isInteger(n) ? Math.round(n) : n.toFixed(1)) + " " + units[u];
}

function seconds(s) {
  if (s === null || s === undefined) return "not known";
  if (s < 0.1) return Math.ceil(s * 1000) + " ms";
  if (s < 10) return s.toFixed(1) + " s";
  if (s < 120) return Math.round(s) + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  return s < 172800 ? Math.round(s / 3600) + " h" : Math.round(s / 86400) + " days";
}

const time = text => new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

// What is the same is left alone: whoever listens to it hears nothing, and the focus stays.
function say(node, text, className) {
  if (node.textContent !== text) node.textContent = text;
  if (className !== undefined && node.className !== className) node.className = className;
}

// ---- how it goes ----

function showStatus(s) {
  // The sentence changes all the time; who listens hears when it goes well, or no more.
  if (state.healthy !== s.healthy) say(at("news"), s.healthy ? "The pipeline is healthy." : s.sentence);
  state.healthy = s.healthy;
  say(at("sentence"), s.sentence, "notice " + (s.healthy ? "good" : "bad"));
  const m = s.metrics;
  const figures = [
    ["Behind the core", seconds(s.lag_seconds)],
    ["In quarantine", plural(m.quarantine_entities, "entity", "entities")],
    ["Kept by the core", bytes(m.core_retained_wal_bytes)],
    ["Companion", s.roles.reports ? s.roles.reports.state || s.roles.reports.life : "not known"],
  ];
  if (at("figures").childElementCount !== figures.length)
    at("figures").replaceChildren(...figures.map(([name]) => {
      const pair = element("div");
      pair.append(element("dt", "", name), element("dd"));
      return pair;
    }));
  figures.forEach(([, value], i) => say(at("figures").children[i].lastChild, value));
}

// ---- the button ----

const chosen = () => new FormData(at("ask")).get("which") === "all" ? state.defined
  : state.defined.filter(d => at("reports").querySelector(`input[value="${CSS.escape(d.id)}"]`)?.checked);

function showDefined() {
  at("all-label").textContent = "All reports (" + state.defined.length + ")";
  const norms = Map.groupBy ? Map.groupBy(state.defined, d => d.norm) : new Map();
  if (!Map.groupBy) for (const d of state.defined) norms.set(d.norm, [...(norms.get(d.norm) ?? []), d]);
  at("reports").replaceChildren(...[...norms].map(([norm, list]) => {
    const group = element("div");
    group.append(element("h3", "", norm), ...list.map(reportChoice));
    return group;
  }));
  if (!at("as-of").value) {
    const day = new Date(Date.now() - 86400000);
    at("as-of").value = [day.getFullYear(), day.getMonth() + 1, day.getDate()].map(n => String(n).padStart(2, "0")).join("-");
  }
  showChoice();
}

function reportChoice(d) {
  const label = element("label", "choice"), box = element("input"), text = element("span", "", d.title);
  box.type = "checkbox";
  box.value = d.id;
  text.append(element("small", "", d.id + " · " + d.formats.join(", ") + (d.takes_day ? " · takes a day" : "")));
  label.append(box, text);
  return label;
}

function showChoice() {
  const list = chosen(), all = new FormData(at("ask")).get("which") === "all";
  const day = list.some(d => d.takes_day);
  at("some").hidden = all;
  at("as-of").disabled = !day;
  at("as-of").required = day;
  say(at("as-of-help"), day ? "The day that the reports are for; some of them take none and show the present."
    : list.length ? "These reports take no day: they show the present." : "Choose at least one report.");
  at("press").disabled = list.length === 0;
  at("press").textContent = all || list.length === 0 ? "Make reports" : "Make " + plural(list.length, "report");
}

function showFilter() {
  const words = at("filter").value.toLowerCase();
  for (const group of at("reports").children) {
    let any = false;
    for (const label of group.querySelectorAll("label")) {
      label.hidden = !label.textContent.toLowerCase().includes(words);
      any ||= !label.hidden;
    }
    group.hidden = !any;
  }
}

function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map(b => b.toString(16).padStart(2, "0")).join("");
}

async function press(event) {
  event.preventDefault();
  const list = chosen(), all = new FormData(at("ask")).get("which") === "all", what = {};
  if (!all) what.reports = list.map(d => d.id);
  if (list.some(d => d.takes_day)) what.as_of = at("as-of").value;
  if (at("allow-stale").checked) what.allow_stale = true;
  if (at("accept-quarantine").checked) what.accept_quarantine = true;
  const body = JSON.stringify(what);
  // The same press again, when the first one's answer was lost, is the same run.
  if (state.key?.body !== body) state.key = { body, key: newKey() };
  at("press").disabled = true;
  at("asked").hidden = false;
  say(at("asked"), "Asking…", "notice busy");
  try {
    const got = await ask(API + "/report-runs", { method: "POST", body, headers: { "Content-Type": "application/json", "Idempotency-Key": state.key.key } });
    state.asked = (await got.json()).id;
    state.key = null;
    say(at("asked"), "It is in the queue.", "notice busy");
    turn();
  } catch (error) {
    if (error.status === 401) handle(error);
    if (error.status !== 0 && error.status !== 503) state.key = null;
    say(at("asked"), error.message, "notice bad");
  } finally {
    at("press").disabled = false;
  }
}

// ---- runs ----

const isOpen = run => run.client_state === "queued" || run.client_state === "running";

function what(run) {
  if (run.reports.length === state.defined.length && run.reports.length > 1) return "All reports";
  if (run.reports.length > 3) return plural(run.reports.length, "report");
  return run.reports.map(id => state.defined.find(d => d.id === id)?.title ?? id).join(", ");
}

function facts(run) {
  const list = [];
  if (run.as_of) list.push("as of " + run.as_of);
  list.push("asked " + time(run.requested_at) + " by " + run.requester);
  if (run.ended_at) list.push("took " + seconds((new Date(run.ended_at) - new Date(run.requested_at)) / 1000));
  if (run.watermark_at) list.push("data up to " + time(run.watermark_at));
  return list.join(" · ");
}

function makeRun(run) {
  const node = element("li");
  node.dataset.run = run.id;
  const head = element("div", "run-head"), files = element("details", "run-files");
  head.append(element("span", "chip"), element("span", "run-what"));
  files.append(element("summary", "", "Files"), element("div"));
  files.addEventListener("toggle", () => { if (files.open) showFiles(run.id); });
  node.append(head, element("div", "run-facts"), element("p", "notice run-reason"), files);
  return node;
}

function showRun(run) {
  let entry = state.runs.get(run.id);
  if (!entry) state.runs.set(run.id, entry = { node: makeRun(run) });
  entry.run = run;
  const [head, about, reason, files] = entry.node.children;
  say(head.children[0], WORDS[run.state] ?? run.state, "chip " + run.client_state);
  say(head.children[1], what(run));
  say(about, facts(run));
  const why = run.reason ? (isOpen(run) ? "Tried again: " : "") + run.reason : run.stale ? "Not fresh: " + run.stale : "";
  reason.hidden = !why;
  say(reason, why, "notice run-reason " + (run.client_state === "failed" ? "bad" : "busy"));
  files.hidden = run.client_state !== "success";
  return entry.node;
}

function placeRuns() {
  const sorted = [...state.runs.values()].sort((a, b) => b.run.requested_at.localeCompare(a.run.requested_at));
  const list = at("runs");
  sorted.forEach((entry, i) => { if (list.children[i] !== entry.node) list.insertBefore(entry.node, list.children[i] ?? null); });
  at("no-runs").hidden = sorted.length > 0;
  at("more").hidden = !state.next;
}

// What became of the press, for those who look at the button, or listen.
function followAsked() {
  const run = state.runs.get(state.asked)?.run;
  if (!run) return;
  const words = run.client_state === "success" ? "Published: the files are below." : WORDS[run.state] + (isOpen(run) ? "…" : ": the run below says why.");
  say(at("asked"), words, "notice " + (isOpen(run) ? "busy" : run.client_state === "success" ? "good" : "bad"));
  if (!isOpen(run)) state.asked = null;
}

async function refreshRuns() {
  const page = await askJson(API + "/report-runs?limit=20");
  if (state.runs.size === 0) state.next = page.next;
  page.runs.forEach(showRun);
  // Runs that left the first page while they were open.
  const seen = new Set(page.runs.map(r => r.id));
  for (const { run } of state.runs.values())
    if (isOpen(run) && !seen.has(run.id)) showRun(await askJson(run.url));
  placeRuns();
  followAsked();
}

async function showMore() {
  at("more").disabled = true;
  try {
    const page = await askJson(state.next);
    state.next = page.next;
    page.runs.forEach(showRun);
    placeRuns();
  } catch (error) { handle(error); }
  at("more").disabled = false;
}

async function showFiles(id) {
  const { run, node } = state.runs.get(id), place = node.lastChild.lastChild;
  if (place.childElementCount) return;
  try {
    const list = element("ul");
    list.append(...(await askJson(run.url + "/files")).files.map(fileRow));
    list.append(fileRow({ path: "manifest.json", url: run.url + "/manifest", manifest: true }));
    place.replaceChildren(list);
  } catch (error) { handle(error); }
}

function fileRow(f) {
  const row = element("li"), name = element("span", "name", f.path ?? f.report + "." + f.format);
  row.append(name);
  if (!f.path) {
    name.append(element("small", "", "no file: " + f.omitted));
    return row;
  }
  name.append(element("small", "", f.manifest ? "checksums and proof" : plural(f.rows, "row") + ", " + bytes(f.bytes) +
                                   (f.invalid ? " · INVALID: " + f.invalid : "")));
  const button = element("button", "quiet", "Download");
  button.type = "button";
  button.setAttribute("aria-label", "Download " + f.path);
  button.addEventListener("click", () => download(f, button));
  row.append(button);
  return row;
}

// A link cannot carry the token.
async function download(f, button) {
  button.disabled = true;
  try {
    const url = URL.createObjectURL(await (await ask(f.url)).blob()), link = element("a");
    link.href = url;
    link.download = f.path.slice(f.path.lastIndexOf("/") + 1);
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    showTrouble(null);
  } catch (error) { handle(error); }
  button.disabled = false;
}

// ---- again and again ----

async function turn() {
  clearTimeout(state.timer);
  if (!document.hidden) {
    try {
      await refreshRuns();
      showStatus(await askJson(API + "/status"));
      showTrouble(null);
    } catch (error) {
      handle(error);
      if (error.status === 401) return;
      say(at("sentence"), "Not known: the companion does not answer as it should.", "notice busy");
    }
  }
  clearTimeout(state.timer);
  if (at("inside").hidden) return;
  const open = [...state.runs.values()].some(({ run }) => isOpen(run));
  state.timer = setTimeout(turn, open ? FAST_MS : SLOW_MS);
}

at("entry-form").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem(KEEP, at("token").value.trim());
  enter();
});
at("leave").addEventListener("click", () => leave());
at("ask").addEventListener("submit", press);
at("ask").addEventListener("change", showChoice);
at("filter").addEventListener("input", showFilter);
at("filter").addEventListener("keydown", event => { if (event.key === "Enter") event.preventDefault(); });
at("more").addEventListener("click", showMore);
document.addEventListener("visibilitychange", () => { if (!document.hidden && !at("inside").hidden) turn(); });
if (sessionStorage.getItem(KEEP)) enter();
else leave();
