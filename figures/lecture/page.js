"use strict";
/* Time and touch: what plays, steps, drags and sets. */

const PLAYED = 8000;  // milliseconds from the first step to the last
const BUDGET = 10;  // milliseconds of simulation between two pictures

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
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (!still && (!location.hash || location.hash.startsWith("#preset="))) play(true);
}

begin();
