"use strict";
/* Bins, curves and numbers of the step at hand. */

const $ = (id) => document.getElementById(id);
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
