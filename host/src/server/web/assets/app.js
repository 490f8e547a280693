// Keeps the page live, asks before it acts, and finds things. No library, no build.
"use strict";

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// ---- the API ----

/** Calls it; an error is an Error with the problem's detail. */
async function call(method, path, body, headers = {}) {
  if (body !== undefined && !(body instanceof Blob)) {
    headers = { "content-type": "application/json", ...headers };
    body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, { method, body, headers });
  } catch {
    throw new Error("the host does not answer; it may have stopped");
  }
  const text = await response.text();
  const answer = text && (response.headers.get("content-type") ?? "").includes("json") ? JSON.parse(text) : text;
  if (!response.ok) throw new Error(answer.detail ?? `the host answered ${response.status}`);
  return answer;
}

function toast(message, details) {
  const shown = element("div", { class: "toast" }, message);
  if (details !== undefined) shown.append(element("pre", {}, JSON.stringify(details, null, 2)));
  $("#toasts").append(shown);
  setTimeout(() => shown.remove(), details === undefined ? 5000 : 20000);
}

function complain(form, message) {
  const problem = $(".problem", form);
  problem.textContent = message ?? "";
  problem.hidden = !message;
}

// ---- live: parts marked data-live are taken from a fresh copy of the page ----

/** What the server sent for a part; a part is replaced only if that differs. */
const sent = new WeakMap();

function morph(now, fresh) {
  if ((sent.get(now) ?? now.outerHTML) === fresh.outerHTML) return;
  const keyed = [...fresh.children].every((child) => child.id) && fresh.children.length > 0;
  if (!keyed) {
    const opened = $$("dialog[open]", now);
    if (opened.length || now.contains(document.activeElement) && document.activeElement.matches("input, textarea, select")) return;
    const held = now.contains(document.activeElement) ? document.activeElement.id || document.activeElement.getAttribute("href") : null;
    sent.set(now, fresh.outerHTML);
    now.replaceChildren(...fresh.childNodes);
    if (held) $$("a, button", now).find((one) => one.id === held || one.getAttribute("href") === held)?.focus();
    return;
  }
  const html = fresh.outerHTML;
  const old = new Map([...now.children].filter((child) => child.id).map((child) => [child.id, child]));
  const wanted = [...fresh.children].map((child) => {
    const there = old.get(child.id);
    if (there && (sent.get(there) ?? there.outerHTML) === child.outerHTML) return there;
    sent.set(child, child.outerHTML);
    return child;
  });
  wanted.forEach((child, index) => {
    if (now.children[index] !== child) now.insertBefore(child, now.children[index] ?? null);
  });
  while (now.children.length > wanted.length) now.lastElementChild.remove();
  sent.set(now, html);
}

let rendering = false;
let again = false;
/** Aborted while an action runs that ends what this page shows. */
let looking = new AbortController();

async function refresh() {
  // A recording has no page of its own to look at again.
  if (document.body.dataset.offline || looking.signal.aborted) return;
  if (rendering) { again = true; return; }
  rendering = true;
  try {
    const response = await fetch(location.href, { headers: { accept: "text/html" }, signal: looking.signal });
    // The token was taken back: sign in again.
    if (response.redirected) { location.assign(response.url); return; }
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (response.ok) {
      // Log lines and lines of source are put there afterwards, and are not the server's.
      $$(".log, .where").forEach((line) => line.remove());
      for (const part of $$("[data-live]")) {
        const fresh = page.getElementById(part.id);
        if (fresh) morph(part, fresh);
      }
      for (const part of $$("[data-live]", page)) {
        if (!document.getElementById(part.id) && part.previousElementSibling?.id) {
          document.getElementById(part.previousElementSibling.id)?.after(document.importNode(part, true));
        }
      }
      for (const part of $$("[data-live]")) if (!page.getElementById(part.id)) part.remove();
      settle();
    } else if (response.status === 404) {
      location.assign("/");
    }
  } catch { /* The stream of changes says whether the host is there. */ }
  rendering = false;
  if (again) { again = false; setTimeout(refresh, 300); }
}

let due;
function refreshSoon() {
  due ??= setTimeout(() => { due = undefined; refresh(); }, 150);
}

function listen() {
  const changes = document.body.dataset.changes;
  const live = $("#live");
  const tell = (on) => {
    live.className = on ? "live on" : "live off";
    live.textContent = on ? "live" : "not connected";
  };
  if (changes === undefined) {
    if ($("[data-live]")) setInterval(() => document.hidden || refresh(), 2000);
    return;
  }
  const source = new EventSource(`/api/v1/changes${changes}`);
  let lost = false;
  source.onopen = () => { tell(true); if (lost) refresh(); lost = false; };
  source.onerror = () => { tell(false); lost = true; };
  source.addEventListener("change", refreshSoon);
  source.addEventListener("missed", refreshSoon);
  addEventListener("pagehide", () => source.close());
}

// ---- times ----

const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

function lasting(seconds) {
  for (const [index, [unit, size]] of UNITS.entries()) {
    if (seconds >= size || unit === "s") {
      const rest = UNITS[index + 1] && Math.floor((seconds % size) / UNITS[index + 1][1]);
      const main = `${Math.floor(seconds / size)} ${unit}`;
      return rest && seconds / size < 10 ? `${main} ${rest} ${UNITS[index + 1][0]}` : main;
    }
  }
}

function tick() {
  const now = Date.now();
  for (const time of $$("time[data-ago]")) {
    const seconds = Math.max(0, (now - Date.parse(time.dateTime)) / 1000);
    const text = seconds < 5 ? "just now" : `${lasting(seconds)} ago`;
    if (time.textContent !== text) time.textContent = text;
  }
  for (const time of $$("time[data-until]")) {
    const seconds = (Date.parse(time.dateTime) - now) / 1000;
    const text = seconds <= 0 ? "now" : `in ${lasting(Math.ceil(seconds))}`;
    if (time.textContent !== text) time.textContent = text;
  }
}

// ---- dialogs and actions ----

/** What the fields of a form say: a path's end, a whole body, or fields of one. */
function read(form) {
  const said = { path: "", body: {} };
  for (const input of $$("input, textarea, select", form)) {
    if (!input.name) continue;
    const label = form.querySelector(`label[for="${input.id}"]`)?.textContent ?? input.name;
    let value = input.type === "checkbox" ? input.checked : input.value;
    if (input.matches("[data-json]")) {
      try { value = JSON.parse(value); } catch { throw new Error(`${label}: this is not JSON`); }
    }
    if (input.matches("[data-number]")) {
      if (!/^\d+$/.test(value)) throw new Error(`${label}: expected a number`);
      value = Number(value);
    }
    if (input.name === "path") said.path = encodeURIComponent(value);
    else if (input.name === "body") said.body = value;
    else if (value !== "") said.body[input.name] = value;
  }
  return said;
}

async function act(form) {
  const [path, fixed] = form.dataset.path.split("#");
  const said = read(form);
  // Where another page follows, this one may be gone before the answer is here.
  if (form.dataset.then) looking.abort();
  let answer;
  try {
    answer = await call(form.dataset.method, path + said.path, fixed ? JSON.parse(fixed) : said.body);
  } catch (problem) {
    looking = new AbortController();
    refreshSoon();
    throw problem;
  }
  form.closest("dialog").close();
  const name = $("h2", form).textContent;
  toast(`${name}: done`, answer && typeof answer === "object" && "queries updates fork restart trigger migrate".split(" ").some((word) => path.includes(word)) ? answer : undefined);
  if (form.dataset.then) location.assign(form.dataset.then); else refreshSoon();
}

async function upload(form) {
  const data = new FormData(form);
  const query = new URLSearchParams({ name: data.get("name") });
  if (data.get("version")) query.set("version", data.get("version"));
  if (data.get("check")) query.set("check", "true");
  await call("POST", `/api/v1/modules?${query}`, new Blob([data.get("file")]), { "content-type": "application/wasm" });
  form.closest("dialog").close();
  toast("The module is there.");
  refreshSoon();
}

function bulkBody(form, dry_run) {
  const filter = JSON.parse(form.dataset.bulk);
  return { action: form.action.value, filter, all: Object.keys(filter).length === 0, reason: form.reason.value, dry_run };
}

async function countBulk(form) {
  const button = $("[type=submit]", form);
  button.disabled = true;
  complain(form);
  $(".count", form).textContent = "counting …";
  const { matched } = await call("POST", "/api/v1/bulk", bulkBody(form, true));
  $(".count", form).textContent = matched === 1 ? "This applies to 1 instance." : `This applies to ${matched} instances.`;
  button.disabled = matched === 0;
}

async function bulk(form) {
  $("[type=submit]", form).disabled = true;
  const done = await call("POST", "/api/v1/bulk", bulkBody(form, false));
  form.closest("dialog").close();
  toast(`Done to ${done.done}${done.skipped_total ? `, skipped ${done.skipped_total}` : ""}${done.remaining ? `; ${done.remaining} remain` : ""}.`, done.skipped_total ? done.skipped : undefined);
  refreshSoon();
}

// ---- a recording: dropped anywhere, or chosen; shown and not kept ----

async function openRecording(file) {
  try {
    const response = await fetch("/ui/recording", { method: "POST", body: file });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!response.ok) throw new Error($("#main .lead", page)?.textContent ?? `the host answered ${response.status}`);
    document.body.dataset.offline = "yes";
    document.title = page.title;
    $("#main").replaceChildren(...$("#main", page).childNodes);
    $("#live").className = "live";
    $("#live").textContent = "recording";
    scrollTo(0, 0);
    $("#main").focus();
    tick();
  } catch (error) {
    toast(`${file.name}: ${error.message}`);
  }
}

document.addEventListener("dragover", (event) => {
  if ([...event.dataTransfer.types].includes("Files")) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  const file = event.dataTransfer.files[0];
  // Fields for files take them themselves.
  if (!file || event.target.matches("[type=file]")) return;
  event.preventDefault();
  openRecording(file);
});
document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-recording]") || !event.target.files.length) return;
  openRecording(event.target.files[0]);
  event.target.value = "";
});

document.addEventListener("click", (event) => {
  const picker = event.target.closest("[data-picks]");
  if (picker) document.getElementById(picker.dataset.picks).click();
  const opener = event.target.closest("[data-opens]");
  if (opener) {
    const dialog = document.getElementById(opener.dataset.opens);
    complain(dialog);
    dialog.showModal();
    const counted = $("form[data-bulk]", dialog);
    if (counted) countBulk(counted).catch((error) => complain(counted, error.message));
  }
  event.target.closest("[data-closes]")?.closest("dialog").close();
  const zoom = event.target.closest("[data-zoom]");
  if (zoom) {
    const svg = $(".chart svg");
    const by = Number(zoom.dataset.zoom);
    if (svg) svg.style.width = by === 0 ? "100%" : `${Math.min(6400, Math.max(100, parseFloat(svg.style.width || "100") * by))}%`;
  }
});

document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (form?.dataset.bulk) countBulk(form).catch((error) => complain(form, error.message));
  if (form?.matches("[data-submits]") && event.target.matches("select, [type=date]")) form.requestSubmit();
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.matches("[data-submits]")) {
    // Fields that say nothing stay out of the address.
    $$("input, select", form).forEach((input) => { input.disabled = input.value === ""; });
    return;
  }
  const doing = form.dataset.path ? act : form.matches("[data-upload]") ? upload : form.dataset.bulk ? bulk : undefined;
  if (!doing) return;
  event.preventDefault();
  complain(form);
  doing(form).catch((error) => complain(form, error.message));
});
addEventListener("pageshow", () => $$("[data-submits] :disabled").forEach((input) => { input.disabled = false; }));

// ---- an instance's history: logs beside the events, and the search ----

let logs;

async function fetchLogs() {
  const history = $("[data-logs]");
  if (!history) return;
  const events = $$(".event").length;
  if (logs?.events === events) return;
  const note = $("#log-note");
  try {
    const { lines, stopped } = await call("GET", history.dataset.logs);
    logs = { events, lines };
    note.hidden = !stopped;
    note.textContent = stopped ? `Guest logs end early: ${stopped}` : "";
  } catch (error) {
    logs = { events, lines: [] };
    note.hidden = false;
    note.textContent = `There are no guest logs: ${error.message}`;
  }
}

function placeLogs() {
  $$(".log").forEach((line) => line.remove());
  if (!logs || !$("#show-logs")?.checked) return;
  for (const line of [...logs.lines].reverse()) {
    const fields = line.fields.map(([name, value]) => ` ${name}=${value}`).join("");
    const row = element("li", { class: "log" },
      element("span", { class: `level ${line.level}` }, line.level),
      element("span", { class: "line" }, `${line.target}: ${line.message}${fields}`));
    document.getElementById(`e${line.event}`)?.after(row);
  }
}

function search() {
  const wanted = $("#search")?.value.toLowerCase() ?? "";
  for (const row of $$("#events > li")) row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
}

async function showLogs() {
  placeLogs();
  search();
  await fetchLogs();
  placeLogs();
  search();
}

// ---- replay: an instance at any of its events ----

const replay = $("#replay");
let asking = 0;

function line(source) {
  return source ? `${source.file.split("/").slice(-3).join("/")}:${source.line}` : "";
}

function box(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...(children.length ? children : [element("p", { class: "dim" }, "nothing")]));
}

function json(value) {
  return element("pre", { tabindex: "0" }, typeof value === "string" ? value : JSON.stringify(value, null, 2));
}

// ---- where in its code an instance waits ----

// By execution and operation: the line that asked.
const asked = new Map();

async function showWaits() {
  const execution = $("#waits")?.dataset.execution;
  const rows = $$("#waits [data-operation]");
  const key = (row) => `${execution}/${row.dataset.operation}`;
  if (!replay || rows.length === 0) return;
  if (rows.some((row) => !asked.has(key(row)))) {
    rows.forEach((row) => asked.has(key(row)) || asked.set(key(row), undefined));
    try {
      const now = await call("GET", `${replay.dataset.replay.split("?")[0]}?execution=${execution}&logs=0`);
      for (const one of now.pending) asked.set(`${now.execution}/${one.operation}`, one.source);
    } catch { /* What it waits for is said all the same. */ }
  }
  for (const row of $$("#waits [data-operation]")) {
    $(".where", row)?.remove();
    const source = asked.get(key(row));
    if (source) row.append(element("span", { class: "dim where", title: source.function }, `at ${line(source)}`));
  }
}

async function stepTo(event) {
  const slider = $("#replay-at");
  const number = ++asking;
  const query = new URLSearchParams({ event, logs: 30 });
  if ($("#replay-module").value) query.set("module", $("#replay-module").value);
  let at;
  try {
    at = await call("GET", `${replay.dataset.replay}&${query}`);
  } catch (error) {
    if (number === asking) complain(replay, error.message);
    return;
  }
  // The slider may be elsewhere by now.
  if (number !== asking) return;
  complain(replay);
  slider.max = at.events;
  slider.value = at.position;
  slider.setAttribute("aria-valuetext", `event ${at.position} of ${at.events}`);
  $("#replay-position").textContent = `event ${at.position} of ${at.events}, turn ${at.turn} of ${at.turns}`;
  for (const row of $$(".event.here")) row.classList.remove("here");
  document.getElementById(`e${at.position}`)?.classList.add("here");
  const shown = [];
  if (at.differs_at) {
    const there = element("button", { type: "button", class: "small" }, `Go to event ${at.differs_at - 1}`);
    there.addEventListener("click", () => stepTo(at.differs_at - 1));
    shown.push(element("div", { class: "panel bad" }, element("h3", {}, `The first difference is at event ${at.differs_at}`), json(at.report ?? ""), there));
  }
  if (at.broken) shown.push(element("p", { class: "warn" }, at.broken));
  const what = at.event ? `${at.event.kind.replaceAll("-", " ")}: ${at.event.summary}` : "Nothing has happened yet.";
  const head = element("p", { class: "now" }, element("strong", {}, what));
  if (at.source?.length) head.append(element("span", { class: "dim" }, ` asked for at ${at.source.map(line).join(", from ")}`));
  shown.push(head);
  if (at.source_text) shown.push(element("pre", { class: "code", tabindex: "0" }, at.source_text.trim()));
  const list = (rows) => element("ul", {}, ...rows.map((row) => element("li", {}, ...row)));
  shown.push(element("div", { class: "boxes" },
    box("It waits for", ...(at.pending.length ? [list(at.pending.map((one) => [one.what, element("span", { class: "dim" }, ` ${line(one.source)}${one.due ? ` until ${one.due}` : ""}`)]))] : [])),
    box("Came back last", ...(at.last_completion ? [element("p", {}, `${at.last_completion.kind.replaceAll("-", " ")}: ${at.last_completion.summary}`)] : [])),
    box("It says", ...(at.custom_status !== undefined ? [json(at.custom_status)] : []), ...Object.entries(at.tags).map(([name, value]) => element("span", { class: "tag" }, `${name}=${value}`))),
    box("It logged", ...(at.logs.length ? [list(at.logs.map((one) => [element("span", { class: "dim" }, `${one.event} ${one.level} `), `${one.message}${one.fields.map(([name, value]) => ` ${name}=${value}`).join("")}`]))] : []))));
  $("#replay-view").replaceChildren(...shown);
}

if (replay) {
  const slider = $("#replay-at");
  replay.addEventListener("toggle", () => { if (replay.open && !$("#replay-view").hasChildNodes()) stepTo(slider.value); });
  slider.addEventListener("input", () => stepTo(slider.value));
  $("#replay-module").addEventListener("change", () => stepTo(slider.value));
  for (const button of $$("[data-step]", replay)) {
    button.addEventListener("click", () => stepTo(Math.min(Number(slider.max), Math.max(0, Number(slider.value) + Number(button.dataset.step)))));
  }
}

// ---- the host's rates ----

let before;
const latest = {};
async function rates() {
  if (!$("[data-stats]")) return;
  for (const tile of $$("[data-rate]")) tile.textContent = latest[tile.dataset.rate] ?? tile.textContent;
  try {
    const stats = await call("GET", "/api/v1/stats");
    if (before) {
      const seconds = (stats.uptime_ms - before.uptime_ms) / 1000;
      for (const tile of $$("[data-rate]")) {
        const rate = (stats[tile.dataset.rate] - before[tile.dataset.rate]) / seconds;
        tile.textContent = latest[tile.dataset.rate] = rate >= 10 ? Math.round(rate).toLocaleString("en") : rate.toFixed(1);
      }
    }
    before = stats;
  } catch { /* The next one may come through. */ }
}

// ---- keyboard, theme, beginning ----

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
  if (event.key === "/") { event.preventDefault(); $("[data-search]")?.focus(); return; }
  const rows = $$("table.rows tbody tr");
  const here = rows.findIndex((row) => row.classList.contains("here"));
  const next = { j: here + 1, k: here - 1 }[event.key];
  if (next !== undefined && rows[next]) {
    rows[here]?.classList.remove("here");
    rows[next].classList.add("here");
    $("a", rows[next])?.focus();
    rows[next].scrollIntoView({ block: "nearest" });
  }
});

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
}

/** After the page was made or made anew. */
function settle() {
  tick();
  rates();
  showLogs();
  showWaits();
}

setTheme(localStorage.getItem("theme"));
$("#theme").addEventListener("click", () => {
  const theme = { "": "light", light: "dark", dark: "" }[localStorage.getItem("theme") ?? ""];
  localStorage.setItem("theme", theme);
  setTheme(theme);
  toast(`Theme: ${theme || "as the system has it"}`);
});
document.addEventListener("input", (event) => { if (event.target.id === "search") search(); });
$("#show-logs")?.addEventListener("change", () => { placeLogs(); search(); });
document.addEventListener("click", (event) => {
  const button = event.target.closest("#unfold");
  if (!button) return;
  const open = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", open);
  button.textContent = open ? "Fold all" : "Unfold all";
  $$("#events details").forEach((details) => { details.open = open; });
});
$("#upload-file")?.addEventListener("change", (event) => {
  const name = $("#upload-name");
  if (!name.value) name.value = (event.target.files[0]?.name ?? "").replace(/\.wasm$/, "").replaceAll("_", "-");
});
for (const part of $$("[data-live], [data-live] > [id]")) sent.set(part, part.outerHTML);
settle();
setInterval(tick, 1000);
listen();
