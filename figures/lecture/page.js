"use strict";
/* What a student touches. The dynamics are engine.js; here are settings, pictures and the address. */

const $ = (id) => document.getElementById(id);
const STEPS = 400;
const PLAYED = 8000;  // milliseconds from the first step to the last
const BUDGET = 10;  // milliseconds of simulation between two pictures

/* Of each objective, its one number: what it is called, its range on a logarithmic slider, and
   whether the responses it learns from may be anybody's. */
const OBJECTIVES = {
  ForwardKL: {label: "forward KL to π*", ideal: true},
  ReverseKL: {label: "reverse KL to π*", ideal: true},
  SFT: {label: "imitation (SFT)"},
  BestOfN: {label: "best of N"},
  RWR: {label: "RWR", number: "beta", symbol: "β", low: 0.02, high: 2},
  DPO: {label: "DPO", number: "beta", symbol: "β", low: 0.01, high: 2},
  IPO: {label: "IPO", number: "tau", symbol: "τ", low: 0.01, high: 2},
  SLiC: {label: "SLiC", number: "margin", symbol: "margin", low: 0.1, high: 10},
  KTO: {label: "KTO", number: "beta", symbol: "β", low: 0.01, high: 2},
  REINFORCE: {label: "REINFORCE", number: "klInReward", symbol: "KL penalty β", low: 0.001, high: 1},
  PPO: {label: "PPO", number: "klInReward", symbol: "KL penalty β", low: 0.001, high: 1},
};
const FIXED = {
  REINFORCE: {advantage: "leave_one_out"},
  PPO: {advantage: "group_zscore", floor: 0.05, low: 0.2, high: 0.2},
};
const USUAL = {RWR: 0.05, DPO: 0.1, IPO: 0.1, SLiC: 1, KTO: 0.1, REINFORCE: 0.01, PPO: 0.01};
const GROUPS = [10, 30, 100, 300, 1000, 0];

const WORLD = [
  {key: "peak", label: "reward's peak, bin", low: 0, high: 99, by: 1},
  {key: "width", label: "its width, bins", low: 2, high: 40, by: 1},
  {key: "location", label: "reference's place", low: -2, high: 2, by: 0.05},
  {key: "scale", label: "its spread", low: 0.1, high: 1.5, by: 0.05},
  {key: "beta_star", label: "β of π*", low: 0.02, high: 1, log: true},
  {key: "rate", label: "learning rate", low: 0.005, high: 5, log: true},
];
const ROWS = [
  ["reward", "expected reward"], ["reverse_kl", "KL(π ‖ π_ref), nats"],
  ["forward_kl", "KL(π_ref ‖ π), nats"], ["entropy", "entropy, nats"],
  ["distance", "distance to π*"], ["chosen_log_ratio", "log π/π_ref of winners"],
  ["rejected_log_ratio", "log π/π_ref of losers"],
];

/* ---- settings and their address -------------------------------------------------------------- */

const policy = (name, more = {}) =>
  ({name, number: USUAL[name] ?? null, online: false, every: 1, groups: 0, ...more});
const called = (p) => [
  OBJECTIVES[p.name].label, p.online ? "on-policy" : null, p.online && p.every > 1 ? `T = ${p.every}` : null,
  p.groups ? `${p.groups} pairs` : null,
].filter(Boolean).join(", ");
const state = {preset: null, at: 0, world: {}, a: null, b: null};

function choose(preset) {
  state.preset = preset.id;
  state.world = {...preset.world};
  state.a = policy(preset.a.name, preset.a);
  state.b = policy(preset.b.name, preset.b);
  state.at = 0;
}

function address() {
  const parts = new URLSearchParams();
  for (const {key} of WORLD) parts.set(key, String(state.world[key]));
  if (state.world.plain) parts.set("plain", "1");
  for (const who of ["a", "b"]) {
    const p = state[who];
    const said = [p.name, p.number ?? "", p.online ? 1 : 0, p.every, p.groups];
    parts.set(who, said.join(","));
  }
  parts.set("at", String(Math.round(state.at)));
  return "#" + parts.toString();
}

/* Whatever an address says that makes sense; the rest stays what the first claim has. */
function fromAddress(hash) {
  const parts = new URLSearchParams(hash.slice(1));
  const preset = PRESETS.find((one) => one.id === parts.get("preset")) ?? PRESETS[0];
  choose(preset);
  if (!parts.has("a") && !parts.has("peak")) return;
  state.preset = null;
  const within = (text, low, high, usual) => {
    const value = Number(text);
    return text === null || text === "" || !Number.isFinite(value) ? usual
      : Math.min(Math.max(value, low), high);
  };
  for (const {key, low, high} of WORLD)
    state.world[key] = within(parts.get(key), low, high, state.world[key]);
  state.world.plain = parts.get("plain") === "1";
  for (const who of ["a", "b"]) {
    const [name, number, online, every, groups] = (parts.get(who) ?? "").split(",");
    const about = OBJECTIVES[name];
    if (!about) continue;
    state[who] = policy(name, {
      number: about.number ? within(number, about.low, about.high, USUAL[name]) : null,
      online: online === "1",
      every: Math.round(within(every, 1, 100, 1)),
      groups: GROUPS.includes(Number(groups)) ? Number(groups) : 0,
    });
  }
  state.at = Math.round(within(parts.get("at"), 0, STEPS, 0));
}

let remembered = null;
function remember() {  // not at every picture: browsers count how often an address changes
  clearTimeout(remembered);
  remembered = setTimeout(() => history.replaceState(null, "", address()), 250);
}

/* ---- the runs -------------------------------------------------------------------------------- */

function methodOf(p) {
  const about = OBJECTIVES[p.name];
  const objective = {name: p.name, ...FIXED[p.name]};
  if (about.number && about.number !== "klInReward") objective[about.number] = p.number;
  return {
    objective, online: p.online, every: p.every, groups: p.groups,
    klInReward: about.number === "klInReward" ? p.number : 0,
  };
}

class Run {
  constructor(p) {
    const {rate, ...world} = state.world;
    this.simulation = new Engine.Simulation({bins: 100, ...world}, methodOf(p), rate);
    this.frames = [this.simulation.measure()];
  }
  get done() { return this.frames.length - 1; }
  advance() {
    this.simulation.step();
    this.frames.push(this.simulation.measure());
  }
}

const runs = {a: null, b: null};
function restart(...who) {
  for (const one of who.length ? who : ["a", "b"]) runs[one] = new Run(state[one]);
  remember();
  wake();
}

/* ---- pictures -------------------------------------------------------------------------------- */

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name);
let colours = {};
function readColours() {
  for (const name of ["paper", "ink", "soft", "line", "a", "b", "reference", "reward", "optimum"])
    colours[name] = colour(name).trim();
}

function surface(canvas) {
  const ratio = window.devicePixelRatio || 1, {width, height} = canvas.getBoundingClientRect();
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  g.lineJoin = "round";
  return {g, width, height};
}

const NICE = [0.02, 0.05, 0.1, 0.2, 0.5, 1];
const frameOf = (run) => run.frames[Math.min(Math.round(state.at), run.done)];
const FONT = 'system-ui, "Segoe UI", Roboto, sans-serif';
const margin = {left: 52, right: 18, top: 10, bottom: 34};

function binAt(event) {
  const box = $("bins").getBoundingClientRect();
  const share = (event.clientX - box.left - margin.left) / (box.width - margin.left - margin.right);
  return Math.min(Math.max(Math.round(share * 100 - 0.5), 0), 99);
}

function drawBins() {
  const {g, width, height} = surface($("bins"));
  const w = width - margin.left - margin.right, h = height - margin.top - margin.bottom;
  const {simulation} = runs.a, K = simulation.K;
  const series = [
    [simulation.refLogp.map(Math.exp), "reference"], [simulation.target.map(Math.exp), "optimum"],
    [frameOf(runs.a).probability, "a"], [frameOf(runs.b).probability, "b"],
  ];
  const [ref, target, a, b] = series.map(([p]) => p.reduce((x, y) => Math.max(x, y)));
  const highest = Math.max(ref, a, b, Math.min(target, 2 * Math.max(ref, a, b)));
  const ceiling = NICE.find((nice) => nice >= 1.04 * highest) ?? 1;
  const X = (k) => margin.left + w * k / K;
  const Y = (p) => margin.top + h * (1 - Math.min(p / ceiling, 1.02));

  g.fillStyle = colours.reward;
  g.globalAlpha = 0.45;
  g.beginPath();
  g.moveTo(X(0), Y(0));
  simulation.reward.forEach((r, k) => g.lineTo(X(k + 0.5), margin.top + h * (1 - 0.94 * r)));
  g.lineTo(X(K), Y(0));
  g.fill();
  g.globalAlpha = 1;

  g.font = `13px ${FONT}`;
  g.fillStyle = colours.soft;
  g.strokeStyle = colours.line;
  g.lineWidth = 1;
  g.textAlign = "right";
  g.textBaseline = "middle";
  for (let n = 0; n <= 4; n++) {
    const p = ceiling * n / 4;
    g.beginPath();
    g.moveTo(margin.left, Y(p));
    g.lineTo(margin.left + w, Y(p));
    g.stroke();
    g.fillText(String(Number(p.toPrecision(3))), margin.left - 7, Y(p));
  }
  g.textAlign = "center";
  g.textBaseline = "top";
  for (let k = 0; k <= K; k += 10) g.fillText(String(k), X(k), margin.top + h + 5);
  g.fillText("bin", margin.left + w / 2, margin.top + h + 19);

  const outline = (p) => {
    g.beginPath();
    p.forEach((v, k) => {
      if (k === 0) g.moveTo(X(0), Y(v)); else g.lineTo(X(k), Y(v));
      g.lineTo(X(k + 1), Y(v));
    });
  };
  const stroke = (name, thick, dash = []) => {
    g.strokeStyle = colours[name];
    g.lineWidth = thick;
    g.setLineDash(dash);
    g.stroke();
    g.setLineDash([]);
  };
  outline(series[2][0]);
  g.lineTo(X(K), Y(0));
  g.lineTo(X(0), Y(0));
  g.fillStyle = colours.a;
  g.globalAlpha = 0.28;
  g.fill();
  g.globalAlpha = 1;
  outline(series[0][0]);
  stroke("reference", 2);
  outline(series[1][0]);
  stroke("optimum", 1.5, [2, 4]);
  outline(series[2][0]);
  stroke("a", 2.5);
  outline(series[3][0]);
  stroke("b", 2.5, [9, 4]);

  const legend = [
    ["A: " + called(state.a), "a", []], ["B: " + called(state.b), "b", [9, 4]],
    ["reference", "reference", []], ["π*", "optimum", [2, 4]], ["reward", "reward", null],
  ];
  g.font = `14px ${FONT}`;
  g.textBaseline = "middle";
  g.textAlign = "left";
  const wide = Math.max(...legend.map(([text]) => g.measureText(text).width)) + 44;
  const left = state.world.peak > 55 ? margin.left + 0.36 * w : margin.left + w - wide;
  const x = Math.min(Math.max(left, margin.left + 6), margin.left + w - wide);
  legend.forEach(([text, name, dash], n) => {
    const y = margin.top + 14 + 20 * n;
    if (dash === null) {
      g.fillStyle = colours.reward;
      g.globalAlpha = 0.6;
      g.fillRect(x, y - 6, 28, 12);
      g.globalAlpha = 1;
    } else {
      g.beginPath();
      g.moveTo(x, y);
      g.lineTo(x + 28, y);
      stroke(name, 2.5, dash);
    }
    g.fillStyle = colours.ink;
    g.fillText(text, x + 36, y);
  });
  const earned = [runs.a, runs.b].map((run) => frameOf(run).reward.toFixed(3));
  $("bins").setAttribute("aria-label",
    `Probability of 100 bins at step ${Math.round(state.at)}. Expected reward: A ${earned[0]}, B ` +
    `${earned[1]}; the reward's peak is bin ${state.world.peak}.`);
}

function drawChart(id, title, lines) {
  const {g, width, height} = surface($(id));
  const box = {left: 40, right: 6, top: 24, bottom: 18};
  const w = width - box.left - box.right, h = height - box.top - box.bottom;
  let low = 0, high = 1e-3;
  for (const {run, key} of lines)
    for (const frame of run.frames) {
      low = Math.min(low, frame[key]);
      high = Math.max(high, frame[key]);
    }
  const X = (n) => box.left + w * n / STEPS, Y = (v) => box.top + h * (1 - (v - low) / (high - low));
  g.font = `13px ${FONT}`;
  g.fillStyle = colours.ink;
  g.textAlign = "left";
  g.textBaseline = "top";
  g.fillText(title, 2, 2);
  g.strokeStyle = colours.line;
  g.fillStyle = colours.soft;
  g.textAlign = "right";
  g.textBaseline = "middle";
  let written = -Infinity;  // the place of the last label, from the bottom up
  for (const v of low < -0.005 ? [low, 0, high] : [0, high]) {
    g.beginPath();
    g.moveTo(box.left, Y(v));
    g.lineTo(box.left + w, Y(v));
    g.stroke();
    if (-Y(v) - written < 13) continue;
    written = -Y(v);
    g.fillText(Math.abs(v) < 10 ? v.toFixed(1) : v.toFixed(0), box.left - 5, Y(v));
  }
  for (const {run, key, name, dash} of lines) {
    g.beginPath();
    run.frames.forEach((frame, n) =>
      n ? g.lineTo(X(n), Y(frame[key])) : g.moveTo(X(0), Y(frame[key])));
    g.strokeStyle = colours[name];
    g.lineWidth = 2;
    g.setLineDash(dash);
    g.stroke();
    g.setLineDash([]);
  }
  g.strokeStyle = colours.soft;
  g.lineWidth = 1;
  g.beginPath();
  g.moveTo(X(state.at), box.top);
  g.lineTo(X(state.at), box.top + h);
  g.stroke();
  const last = lines.map(({run, key, said}) => `${said} ${frameOf(run)[key].toFixed(2)}`);
  $(id).setAttribute("aria-label", `${title}, at this step: ${last.join(", ")}`);
}

function drawAll() {
  drawBins();
  const both = (key) => [
    {run: runs.a, key, name: "a", dash: [], said: "A"},
    {run: runs.b, key, name: "b", dash: [7, 3], said: "B"},
  ];
  drawChart("reward-chart", "expected reward", both("reward"));
  drawChart("kl-chart", "KL(π ‖ π_ref), nats", both("reverse_kl"));
  drawChart("ratio-chart", "log π/π_ref: winners, losers (dotted)", [
    ...both("chosen_log_ratio"),
    ...both("rejected_log_ratio").map((line, n) => ({...line, dash: n ? [1.5, 5] : [2, 2.5]})),
  ]);
  const cells = document.querySelectorAll("#readouts td");
  ROWS.forEach(([key], row) => {
    cells[2 * row].textContent = frameOf(runs.a)[key].toFixed(3);
    cells[2 * row + 1].textContent = frameOf(runs.b)[key].toFixed(3);
  });
  $("step").textContent = `step ${Math.round(state.at)}`;
  $("at").value = String(Math.round(state.at));
}

/* ---- time ------------------------------------------------------------------------------------ */

let playing = false, awake = false, before = 0;

function wake() {
  if (awake) return;
  awake = true;
  before = performance.now();
  requestAnimationFrame(turn);
}

function turn(now) {
  const behind = () => Math.min(runs.a.done, runs.b.done) < Math.round(state.at);
  if (playing) {
    // A picture's time may lie before the moment it was asked for.
    state.at = Math.min(state.at + Math.max(now - before, 0) * STEPS / PLAYED, STEPS);
    if (state.at >= STEPS) play(false);
  }
  before = now;
  const began = performance.now();
  while (behind() && performance.now() - began < BUDGET)
    (runs.a.done <= runs.b.done ? runs.a : runs.b).advance();
  drawAll();
  if (playing || behind()) requestAnimationFrame(turn);
  else awake = false;
}

function play(yes) {
  if (yes && state.at >= STEPS) state.at = 0;
  playing = yes;
  $("play").textContent = yes ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", yes ? "Pause" : "Play");
  remember();
  wake();
}

function goTo(step) {
  state.at = Math.min(Math.max(Math.round(step), 0), STEPS);
  remember();
  wake();
}

/* ---- controls -------------------------------------------------------------------------------- */

const made = (tag, about = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), about);
  element.append(...inside);
  return element;
};

function slider({id, label, low, high, by, log, value, said, set}) {
  const output = made("output", {}), input = made("input", {type: "range", id});
  const [from, to] = log ? [Math.log(low), Math.log(high)] : [low, high];
  Object.assign(input, {min: from, max: to, step: by ?? (to - from) / 200});
  input.value = log ? Math.log(value) : value;
  const show = (v) => {
    output.textContent = said ? said(v) : String(Number(v.toPrecision(2 + (v >= 10))));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  output.htmlFor = id;
  input.addEventListener("input", () => {
    const v = log ? Number(Math.exp(Number(input.value)).toPrecision(3)) : Number(input.value);
    show(v);
    set(v);
  });
  show(value);
  return made("div", {className: "field"}, made("label", {htmlFor: id, textContent: label}), output,
    input);
}

function check({id, label, checked, set}) {
  const input = made("input", {type: "checkbox", id, checked});
  input.addEventListener("change", () => set(input.checked));
  return made("div", {className: "check"}, input,
    made("label", {htmlFor: id, textContent: label}));
}

function changed(...who) {
  state.preset = null;
  $("preset").value = "";
  $("claim").textContent = "Your own settings.";
  for (const one of ["a", "b"])
    $("name-" + one).textContent = `${one.toUpperCase()}: ${called(state[one])}`;
  restart(...who);
}

function policyControls(who) {
  const place = $("policy-" + who), p = state[who], about = OBJECTIVES[p.name];
  place.querySelectorAll(".field, .check").forEach((old) => old.remove());
  const select = made("select", {id: who + "-objective"});
  for (const [name, {label}] of Object.entries(OBJECTIVES))
    select.append(made("option", {value: name, textContent: label, selected: name === p.name}));
  select.addEventListener("change", () => {
    const wants = select.value === "REINFORCE" || select.value === "PPO";
    state[who] = policy(select.value, {online: p.online || wants, every: p.every, groups: p.groups});
    policyControls(who);
    changed(who);
    $(who + "-objective").focus();
  });
  place.append(made("div", {className: "field"},
    made("label", {htmlFor: select.id, textContent: "objective"}), select));
  $("name-" + who).textContent = `${who.toUpperCase()}: ${called(p)}`;
  if (about.number)
    place.append(slider({id: who + "-number", label: about.symbol, low: about.low, high: about.high,
      log: true, value: p.number, set: (v) => { p.number = v; changed(who); }}));
  if (about.ideal) return;
  place.append(check({id: who + "-online", label: "on-policy: learns from its own responses",
    checked: p.online, set: (yes) => {
      p.online = yes;
      policyControls(who);
      changed(who);
      $(who + "-online").focus();
    }}));
  if (p.online)
    place.append(slider({id: who + "-every", label: "steps on each collection (T)", low: 1, high: 100,
      by: 1, value: p.every, set: (v) => { p.every = v; changed(who); }}));
  place.append(slider({id: who + "-groups", label: "pairs in a collection", low: 0,
    high: GROUPS.length - 1, by: 1, value: GROUPS.indexOf(p.groups),
    said: (n) => GROUPS[n] ? String(GROUPS[n]) : "all",
    set: (n) => { p.groups = GROUPS[n]; changed(who); }}));
}

function worldControls() {
  const place = $("world");
  place.querySelectorAll(".field, .check").forEach((old) => old.remove());
  for (const about of WORLD)
    place.append(slider({...about, id: about.key, value: state.world[about.key],
      set: (v) => { state.world[about.key] = v; changed(); }}));
  place.append(check({id: "plain", label: "plain gradient descent, not Adam",
    checked: state.world.plain, set: (yes) => { state.world.plain = yes; changed(); }}));
}

function controls() {
  policyControls("a");
  policyControls("b");
  worldControls();
  const preset = PRESETS.find((one) => one.id === state.preset);
  $("preset").value = state.preset ?? "";
  $("claim").textContent = preset ? preset.claim : "Your own settings.";
}

function begin() {
  $("preset").append(made("option", {value: "", textContent: "your own", disabled: true}));
  PRESETS.forEach(({id, title}, n) =>
    $("preset").append(made("option", {value: id, textContent: `${n + 1}  ${title}`})));
  for (const [, label] of ROWS)
    document.querySelector("#readouts tbody").append(made("tr", {},
      made("th", {scope: "row", textContent: label}), made("td", {}), made("td", {})));
  $("at").max = String(STEPS);
  const take = (preset) => { choose(preset); controls(); restart(); play(true); };

  $("preset").addEventListener("change",
    () => take(PRESETS.find(({id}) => id === $("preset").value)));
  $("play").addEventListener("click", () => play(!playing));
  $("back").addEventListener("click", () => { play(false); goTo(state.at - 1); });
  $("forth").addEventListener("click", () => { play(false); goTo(state.at + 1); });
  $("at").addEventListener("input", () => { play(false); goTo(Number($("at").value)); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => { fromAddress(location.hash); controls(); restart(); });
  window.addEventListener("resize", wake);

  let dragging = false;
  const drag = (event) => {
    state.world.peak = binAt(event);
    const input = $("peak");
    input.value = state.world.peak;
    input.dispatchEvent(new Event("input"));
  };
  $("bins").addEventListener("pointerdown", (event) => {
    dragging = true;
    $("bins").setPointerCapture(event.pointerId);
    drag(event);
  });
  $("bins").addEventListener("pointermove", (event) => { if (dragging) drag(event); });
  for (const end of ["pointerup", "pointercancel"])
    $("bins").addEventListener(end, () => { dragging = false; });
  for (const id of ["reward-chart", "kl-chart", "ratio-chart"])
    $(id).addEventListener("pointerdown", (event) => {
      const {left, width} = $(id).getBoundingClientRect();
      play(false);
      goTo((event.clientX - left - 40) / (width - 46) * STEPS);
    });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const busy = event.target.closest("input, select, button");
    const does = {
      " ": () => play(!playing),
      ArrowLeft: () => { play(false); goTo(state.at - (event.shiftKey ? 10 : 1)); },
      ArrowRight: () => { play(false); goTo(state.at + (event.shiftKey ? 10 : 1)); },
      Home: () => goTo(0),
      End: () => goTo(STEPS),
    }[event.key];
    if (does && !busy) {
      event.preventDefault();
      does();
    } else if (/^[1-9]$/.test(event.key) && event.key <= PRESETS.length &&
      !event.target.closest("select")) {
      take(PRESETS[Number(event.key) - 1]);
    }
  });

  const theme = (dark) => {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    $("theme").textContent = dark ? "light" : "dark";
    $("theme").setAttribute("aria-pressed", String(dark));
    readColours();
    if (runs.a) wake();
  };
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", () => theme(system.matches));
  $("theme").addEventListener("click",
    () => theme(document.documentElement.dataset.theme !== "dark"));
  theme(system.matches);

  fromAddress(location.hash);
  controls();
  restart();
  if (!location.hash || location.hash.startsWith("#preset=")) play(true);
}

begin();
