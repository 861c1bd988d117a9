"use strict";
const LEFT = 196, RIGHT = 24;
const STATES = { up: "#7cb98b", open: "#a9d3b3", starting: "#f2c96d", paused: "#b39ddb", down: "#d9dde3" };
const OUTCOMES = { done: "#2e7d32", read: "#1976d2", listed: "#00838f", copied: "#558b2f", begun: "#00838f", precondition_failed: "#8d99a8",
  refused: "#8d99a8", not_done: "#ef8f00", unknown: "#8e24aa" };
const LEADERS = ["#3f6a9a", "#b5651d", "#3f7f45", "#8a5a86", "#2f7f7a", "#7d5a48", "#8c7414", "#b0506a", "#4f6fb5", "#5d7a1f", "#9a4fb0", "#56616e"];
// Reads that a run makes by itself when all clients have ended.
const LAST_CLIENT = 4294967295;
const HEIGHT = { node: 18, drive: 9, group: 15, volumes: 18, fault: 15, client: 11 };
const byId = id => document.getElementById(id);
const axis = byId("axis"), lanes = byId("lanes"), tip = byId("tip");
const END = Math.max(DATA.until_us, 1);
let from = -END * 0.01, until = END * 1.01, lit = null, hover = null, rows = [], hits = [];

const seconds = us => (us / 1e6).toFixed(us % 1e6 === 0 ? 0 : 3) + " s";
const hash = text => { let h = 0; for (const c of text) h = (h * 31 + c.charCodeAt(0)) >>> 0; return h; };
const x = us => LEFT + (us - from) / (until - from) * (lanes.clientWidth - LEFT - RIGHT);
const at = px => from + (px - LEFT) / (lanes.clientWidth - LEFT - RIGHT) * (until - from);
const escape = text => String(text).replace(/[&<>]/g, c => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

function arrange() {
  let y = 8;
  const title = text => { y += 10; rows.push({ title: text, y, h: 18 }); y += 20; };
  const row = r => { r.y = y; r.h = HEIGHT[r.kind]; rows.push(r); y += r.h + (r.kind === "drive" || r.kind === "client" ? 2 : 4); return r; };
  title("faults");
  const free = [];
  for (const fault of DATA.faults) {
    let slot = free.findIndex(end => end < fault.from_us);
    if (slot < 0) { slot = free.length; free.push(0); }
    free[slot] = fault.until_us + END * 0.004;
    (rows.find(r => r.slot === slot) || row({ kind: "fault", name: slot ? "" : "as planned", slot, bars: [] })).bars.push(fault);
  }
  const taken = [];
  for (const deed of carriedOut()) {
    let slot = taken.findIndex(end => end < deed.from);
    if (slot < 0) { slot = taken.length; taken.push(0); }
    taken[slot] = deed.until + END * 0.004;
    (rows.find(r => r.done === slot) || row({ kind: "fault", name: slot ? "" : "as carried out", done: slot, deeds: [] })).deeds.push(deed);
  }
  row({ kind: "fault", name: "machines, drives, links", marks: DATA.marks });
  title("nodes and their drives");
  for (const lane of DATA.lanes.filter(l => l.kind === "node")) {
    row({ kind: "node", name: lane.name, of: lane.of, lane });
    for (const drive of DATA.lanes.filter(l => l.kind === "drive" && l.of === lane.name)) row({ kind: "drive", name: drive.name, lane: drive });
    y += 5;
  }
  const groups = DATA.lanes.filter(l => l.kind === "group");
  if (groups.length) title("groups: leader and term");
  for (const lane of groups) row({ kind: "group", name: lane.name, lane });
  title("volumes: whole, reduced, unreadable");
  for (const lane of DATA.lanes.filter(l => l.kind === "volumes")) row({ kind: "volumes", name: lane.name, lane });
  title("clients");
  const clients = [...new Set(DATA.operations.map(o => o[0]))].sort((a, b) => a - b);
  for (const client of clients) row({ kind: "client", name: client === LAST_CLIENT ? "at the end" : "client " + client, ops: DATA.operations.filter(o => o[0] === client) });
  return y + 14;
}
const total = arrange();

// Of each fault that came to something: from when to when it struck, and what. What found nothing to strike stands there, too.
function carriedOut() {
  const bars = [];
  for (const deed of DATA.deeds) {
    const last = bars.findLast(b => b.fault === deed.fault);
    if (!last || deed.stage === "struck") bars.push({ fault: deed.fault, from: deed.at_us, until: deed.at_us, idle: deed.stage === "idle", what: [deed] });
    else { last.what.push(deed); last.until = deed.at_us; last.idle = last.idle || deed.stage === "idle"; }
  }
  return bars;
}

function colour(kind, state) {
  if (kind === "group") return state === "no leader" ? "#c62828" : LEADERS[hash(state.split(" ")[0]) % LEADERS.length];
  if (state in STATES) return STATES[state];
  return "#e57373";
}

function fit(canvas, height) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth;
  canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  canvas.style.height = height + "px";
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

function ticks() {
  const rough = (until - from) / Math.max((lanes.clientWidth - LEFT) / 90, 1);
  const size = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = [1, 2, 5, 10].map(n => n * size).find(n => n >= rough);
  const list = [];
  for (let t = Math.ceil(from / step) * step; t <= until; t += step) list.push([t, step]);
  return list;
}

function draw() {
  hits = [];
  const top = fit(axis, 26), pen = fit(lanes, total), width = lanes.clientWidth;
  top.font = pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  for (const [t, step] of ticks()) {
    top.fillStyle = "#667080";
    const digits = Math.max(0, -Math.floor(Math.log10(step / 1e6) + 1e-9));
    top.fillText((t / 1e6).toFixed(digits) + " s", x(t) + 3, 15);
    top.fillRect(x(t), 4, 1, 22);
    pen.fillStyle = "#edf0f3";
    pen.fillRect(x(t), 0, 1, total);
  }
  for (const row of rows) drawRow(pen, row, width);
  shadeStruck(pen);
  // Names last: bars that begin left of the window do not cover them.
  pen.fillStyle = "#ffffff"; pen.fillRect(0, 0, LEFT - 8, total);
  for (const row of rows) drawName(pen, row);
  if (hover !== null && hover > LEFT) { pen.fillStyle = "#1c243066"; pen.fillRect(hover, 0, 1, total); top.fillStyle = "#1c2430"; top.fillRect(hover, 0, 1, 26); }
}

function drawName(pen, row) {
  if (row.title) { pen.fillStyle = "#1c2430"; pen.font = "600 13px system-ui, 'DejaVu Sans', sans-serif"; pen.fillText(row.title, 24, row.y + 13); pen.font = "11px system-ui, 'DejaVu Sans', sans-serif"; return; }
  pen.fillStyle = row.kind === "drive" || row.kind === "client" ? "#8d99a8" : "#3a4554";
  pen.font = (row.kind === "drive" || row.kind === "client" ? "9.5px" : "11.5px") + " system-ui, 'DejaVu Sans', sans-serif";
  pen.fillText((row.kind === "drive" ? "    " + row.name.split(" ").slice(1).join(" ") : row.name) + (row.of ? " · " + row.of : ""), 32, row.y + row.h / 2 + 4);
}

function bar(pen, row, a, b, fill, what, least) {
  const left = Math.max(x(a), LEFT - 8), right = Math.min(Math.max(x(b), x(a) + (least || 0)), lanes.clientWidth);
  if (right < LEFT - 8 || left > lanes.clientWidth) return null;
  pen.fillStyle = fill; pen.fillRect(left, row.y, Math.max(right - left, 0.5), row.h);
  if (what) hits.push([left, row.y, Math.max(right, left + 3), row.y + row.h, what]);
  return [left, right];
}

function words(pen, row, place, text, ink) {
  if (!place || place[1] - place[0] < 26) return;
  pen.save(); pen.beginPath(); pen.rect(place[0], row.y, place[1] - place[0] - 3, row.h); pen.clip();
  pen.fillStyle = ink; pen.font = "10.5px system-ui, 'DejaVu Sans', sans-serif"; pen.fillText(text, place[0] + 5, row.y + row.h / 2 + 4); pen.restore();
}

function drawRow(pen, row) {
  if (row.bars) for (const f of row.bars) {
    const place = bar(pen, row, f.from_us, f.until_us, "#e0685f", { head: f.fault, text: f.text + (f.lanes.length ? "; strikes " + f.lanes.join(", ") : "") }, 5);
    words(pen, row, place, f.fault, "#fff");
  }
  if (row.deeds) for (const d of row.deeds) {
    const place = bar(pen, row, d.from, d.until, d.idle ? "#b8c0ca" : "#a33c35", { head: DATA.faults[d.fault].text,
      text: d.what.map(deed => seconds(deed.at_us) + ": " + deed.what).join("; ") }, 5);
    words(pen, row, place, d.what[0].what, "#fff");
  }
  if (row.marks) for (const [us, kind, text] of row.marks) bar(pen, row, us, us, "#5b6675", { head: kind, text: text + ", at " + seconds(us) }, 3);
  if (row.lane) for (const [a, b, state] of row.lane.spans) {
    if (row.kind === "volumes") { health(pen, row, a, b, state); continue; }
    const fill = colour(row.kind, state);
    const place = bar(pen, row, a, b, fill, { head: row.name + ": " + state, text: seconds(a) + " to " + seconds(b) }, 1.5);
    if (row.kind === "group") words(pen, row, place, state, "#fff");
    else if (row.kind === "node" && state !== "up") words(pen, row, place, state, "#3a4554");
  }
  if (row.ops) for (const o of row.ops) operation(pen, row, o);
}

function health(pen, row, a, b, state) {
  const [whole, reduced, lost] = (state.match(/\d+/g) || [0, 0, 0]).map(Number), sum = whole + reduced + lost;
  const what = { head: "volumes: " + state, text: seconds(a) + " to " + seconds(b) };
  bar(pen, row, a, b, "#edf0f3", what, 1);
  if (!sum) return;
  let y = row.y;
  for (const [count, fill] of [[lost, "#c62828"], [reduced, "#f2b544"], [whole, "#7cb98b"]]) {
    const h = row.h * count / sum;
    bar(pen, { y, h }, a, b, fill, null, 1);
    y += h;
  }
}

function operation(pen, row, o) {
  const [client, key, action, begun, ended, outcome, detail] = o;
  const name = DATA.keys[key], told = DATA.outcomes[outcome], bright = lit === null || lit.has(key);
  pen.globalAlpha = bright ? 1 : 0.13;
  const end = ended < 0 ? END : ended, fill = DATA.wrong.includes(key) && lit !== null && bright ? "#c62828" : OUTCOMES[told] || "#3a4554";
  const place = bar(pen, row, begun, end, fill, { head: DATA.actions[action] + " " + name + ": " + told,
    text: "client " + client + ", " + seconds(begun) + " to " + (ended < 0 ? "the end: no reply" : seconds(ended)) + "; " + detail, key }, 2);
  if (place && ended < 0) { pen.fillStyle = "#fff8"; pen.fillRect(place[0] + 3, row.y + 3, Math.max(place[1] - place[0] - 6, 0), row.h - 6); }
  pen.globalAlpha = 1;
}

function shadeStruck(pen) {
  pen.fillStyle = "#c6282818";
  for (const fault of DATA.faults) for (const row of rows) {
    if (!row.lane || !fault.lanes.some(name => row.lane.name === name || row.lane.of === name)) continue;
    const left = Math.max(x(fault.from_us), LEFT), right = Math.max(x(fault.until_us), left + 2);
    pen.fillRect(left, row.y - 1, right - left, row.h + 2);
  }
}

function show(a, b) {
  const least = 200;
  if (b - a < least) { const middle = (a + b) / 2; a = middle - least / 2; b = middle + least / 2; }
  from = Math.max(a, -END * 0.05); until = Math.min(b, END * 1.05);
  draw();
}
function zoom(factor, px) {
  const middle = px === undefined ? (from + until) / 2 : at(px);
  show(middle - (middle - from) * factor, middle + (until - middle) * factor);
}

let held = null;
lanes.addEventListener("mousedown", e => { held = { px: e.clientX, from, until, moved: false }; lanes.classList.add("held"); });
window.addEventListener("mouseup", e => {
  if (held && !held.moved && e.target === lanes) {
    const what = under(e);
    light(what && what.key !== undefined ? new Set([what.key]) : null);
  }
  held = null; lanes.classList.remove("held");
});
window.addEventListener("mousemove", e => {
  if (held) {
    const by = (e.clientX - held.px) / (lanes.clientWidth - LEFT - RIGHT) * (held.until - held.from);
    if (Math.abs(e.clientX - held.px) > 3) held.moved = true;
    if (held.moved) { from = held.from - by; until = held.until - by; draw(); }
    return;
  }
  if (e.target !== lanes && e.target !== axis) { tip.style.display = "none"; return; }
  hover = e.clientX - lanes.getBoundingClientRect().left;
  draw();
  const what = e.target === lanes ? under(e) : null;
  tip.innerHTML = what ? "<b>" + escape(what.head) + "</b><span>" + escape(what.text) + "</span>" : hover > LEFT ? "<span>" + seconds(Math.round(at(hover))) + "</span>" : "";
  tip.style.display = tip.innerHTML ? "block" : "none";
  tip.style.left = Math.min(e.clientX + 14, window.innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(e.clientY + 16, window.innerHeight - tip.offsetHeight - 8) + "px";
});
function under(e) {
  const box = lanes.getBoundingClientRect(), px = e.clientX - box.left, py = e.clientY - box.top;
  if (px < LEFT - 8) return null;
  for (let i = hits.length - 1; i >= 0; i--) { const [a, b, c, d, what] = hits[i]; if (px >= a - 1 && px <= c + 1 && py >= b && py <= d) return what; }
  return null;
}
for (const canvas of [axis, lanes]) canvas.addEventListener("wheel", e => {
  if (canvas === lanes && !e.ctrlKey && !e.metaKey && Math.abs(e.deltaX) <= Math.abs(e.deltaY)) return;
  e.preventDefault();
  if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) { const by = e.deltaX / lanes.clientWidth * (until - from); show(from + by, until + by); }
  else zoom(Math.exp(e.deltaY / 400), e.clientX - lanes.getBoundingClientRect().left);
}, { passive: false });
window.addEventListener("keydown", e => {
  const by = (until - from) * 0.2;
  const keys = { "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), "0": whole, ArrowLeft: () => show(from - by, until - by), ArrowRight: () => show(from + by, until + by) };
  if (keys[e.key]) { keys[e.key](); e.preventDefault(); }
});
lanes.addEventListener("dblclick", e => zoom(0.4, e.clientX - lanes.getBoundingClientRect().left));
const whole = () => { light(null); show(-END * 0.01, END * 1.01); };
byId("in").onclick = () => zoom(0.6); byId("out").onclick = () => zoom(1 / 0.6); byId("all").onclick = whole;

function light(keys) { lit = keys && keys.size ? keys : null; draw(); }

byId("name").textContent = DATA.scenario;
byId("facts").textContent = "seed " + DATA.seed + " · " + seconds(DATA.until_us) + " · " + DATA.faults.length + " faults · " + DATA.operation_count + " operations";
byId("claim").textContent = DATA.claim;
byId("again").textContent = DATA.again;
const failed = DATA.violations.length > 0, verdict = byId("verdict");
verdict.textContent = failed ? DATA.violations.length + " VIOLATION" + (DATA.violations.length > 1 ? "S" : "") : "PASSED";
verdict.classList.add(failed ? "bad" : "good");
DATA.violations.forEach(([text, keys], index) => {
  const item = document.createElement("li");
  item.textContent = text;
  item.onclick = () => {
    const on = !item.classList.contains("on");
    document.querySelectorAll("#violations li").forEach(other => other.classList.remove("on"));
    item.classList.toggle("on", on);
    light(on ? new Set(keys) : null);
  };
  byId("violations").append(item);
  if (index === 0 && keys.length) item.click();
});
for (const deed of DATA.deeds) {
  const line = document.createElement("tr");
  for (const text of [seconds(deed.at_us), deed.what, DATA.faults[deed.fault].text]) line.append(Object.assign(document.createElement("td"), { textContent: text }));
  if (deed.stage === "idle") line.className = "idle";
  line.onclick = () => { show(deed.at_us - END * 0.03, deed.at_us + END * 0.03); window.scrollTo(0, 0); };
  byId("deeds").append(line);
}
const idle = DATA.deeds.filter(deed => deed.stage === "idle").length;
byId("deeds-of").textContent = "What the nemesis did: " + DATA.faults.length + " faults planned, " + idle + " found nothing to strike";
byId("keys").innerHTML = [...Object.entries(STATES).filter(([s]) => s !== "open"), ["closed or failed", "#e57373"]].concat(DATA.outcomes.map(o => [o.replace("_", " "), OUTCOMES[o] || "#3a4554"]))
  .map(([name, fill]) => '<span class="key"><i style="background:' + fill + '"></i>' + escape(name) + "</span>").join("&ensp;");
byId("foot").textContent = "Drag to move, Ctrl and the wheel (or the wheel over the axis) to zoom, arrows and + - 0 as well; click an operation to see its key alone. " + DATA.note;
window.addEventListener("resize", draw);
draw();
