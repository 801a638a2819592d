"use strict";
/* What can be set, how the address spells it, and the two runs that follow from it. */

const STEPS = 400;

/* Of each objective, its one number: what it is called, and its range on a logarithmic slider. The
   ideal ones see pi* itself, and no responses. */
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
