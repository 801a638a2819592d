"use strict";
/* The bandit of bandit/exact.py, so that a page can move it: every group of two responses, as often
   as it comes, and Adam along the gradient. Tests hold each number against the library's.

   Key to the names: K bins, z logits, lp log-probabilities, q who writes, i and j two responses. */

const Engine = (() => {
  const B1 = 0.9, B2 = 0.999, EPSILON = 1e-8;

  const fill = (K, f) => Float64Array.from({length: K}, (_, k) => f(k));
  const sum = (x) => { let s = 0; for (const v of x) s += v; return s; };
  const sigmoid = (x) => x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));

  function logSoftmax(z) {
    const top = z.reduce((a, b) => Math.max(a, b), -Infinity);
    let total = 0;
    for (const v of z) total += Math.exp(v - top);
    const norm = top + Math.log(total);
    return z.map((v) => v - norm);
  }

  /* A squashed Cauchy cut into bins, as bandit.squashed_cauchy. */
  function squashedCauchy(K, location, scale) {
    const below = fill(K + 1, (k) => {
      const edge = k === 0 ? -Infinity : k === K ? Infinity : Math.atanh(-1 + 2 * k / K);
      return 0.5 + Math.atan((edge - location) / scale) / Math.PI;
    });
    return fill(K, (k) => Math.log(below[k + 1] - below[k]));
  }

  /* exp(-((k - peak) / width)^2) in single precision, as bandit.bump. */
  function bump(K, peak, width) {
    return fill(K, (k) => Math.fround(Math.exp(-(((k - peak) / width) ** 2))));
  }

  const optimum = (refLogp, reward, beta) => logSoftmax(refLogp.map((v, k) => v + reward[k] / beta));

  /* The slope of a pair's loss in the winner's log-probability, and minus that in the loser's; gap is
     the difference of their log-ratios, likelihoods that of their log-probabilities. */
  const PAIRS = {
    DPO: (o) => (gap) => -o.beta * sigmoid(-o.beta * gap),
    IPO: (o) => (gap) => 2 * (gap - 1 / (2 * o.tau)),
    SLiC: (o) => (gap, likelihoods) => likelihoods < o.margin ? -1 : likelihoods > o.margin ? 0 : -0.5,
  };

  /* A loss adds its slopes to a gradient and returns the units to divide by; W says how often a group
     of two comes. */
  function pairwise(slopeOf) {
    return (s, W, gradient) => {
      const {K, taken, lp, refLogp} = s;
      let units = 0;
      for (let i = 0; i < K; i++) {
        for (let j = 0; j < K; j++) {
          // Either of the two may be the better one.
          const w = W(i, j) + W(j, i);
          if (w === 0 || !(taken[i] > taken[j])) continue;
          const likelihoods = lp[i] - lp[j];
          const slope = w * slopeOf(likelihoods - refLogp[i] + refLogp[j], likelihoods);
          gradient[i] += slope;
          gradient[j] -= slope;
          units += w;
        }
      }
      return units;
    };
  }

  /* Losses of single responses: the slope in the log-probability of i, which shares a group with j,
     and whether i is a unit. */
  function single(slopeOf, countedOf = () => 1) {
    return (s, W, gradient) => {
      let units = 0;
      const add = (i, j, w, isFirst) => {
        const counted = w * countedOf(s, i, j, isFirst);
        if (counted === 0) return;
        gradient[i] += counted * slopeOf(s, i, j);
        units += counted;
      };
      for (let i = 0; i < s.K; i++) {
        for (let j = 0; j < s.K; j++) {
          const w = W(i, j);
          add(i, j, w, true);
          add(j, i, w, false);
        }
      }
      return units;
    };
  }

  const isBest = (s, i, j, isFirst) =>
    s.taken[i] > s.taken[j] || (s.taken[i] === s.taken[j] && isFirst) ? 1 : 0;

  function advantageOf(s, i, j) {
    const {advantage, floor} = s.objective;
    const mine = s.taken[i], other = s.taken[j];
    if (advantage === "leave_one_out") return mine - other;
    const half = (mine - other) / 2;  // the mean of two, and their deviation around it
    return half / (Math.max(Math.abs(half), floor) + 1e-6);
  }

  function clippedSlope(s, i, j) {
    const A = advantageOf(s, i, j), {low, high} = s.objective;
    const ratio = Math.exp(s.lp[i] - s.oldLogp[i]);
    const clipped = Math.min(Math.max(ratio, 1 - low), 1 + high);
    return -A * ratio >= -A * clipped ? -A * ratio : 0;
  }

  const LOSSES = {
    SFT: () => single(() => -1),
    BestOfN: () => single(() => -1, isBest),
    RWR: (o) => single((s, i) => -Math.exp(s.taken[i] / o.beta)),
    DPO: (o) => pairwise(PAIRS.DPO(o)),
    IPO: (o) => pairwise(PAIRS.IPO(o)),
    SLiC: (o) => pairwise(PAIRS.SLiC(o)),
    REINFORCE: () => single((s, i, j) => -advantageOf(s, i, j)),
    PPO: () => single(clippedSlope),
    KTO: (o) => single(
      (s, i, j) => {
        const h = o.beta * (s.lp[i] - s.refLogp[i]) - s.point, slope = sigmoid(h) * sigmoid(-h);
        return (s.taken[i] > (s.taken[i] + s.taken[j]) / 2 ? -1 : 1) * o.beta * slope;
      },
      (s, i, j) => s.taken[i] !== s.taken[j] ? 1 : 0,
    ),
  };

  /* Where an objective pushes the logits: minus the gradient of its mean over all groups. */
  function velocity(s) {
    const {K, objective} = s;
    s.lp = logSoftmax(s.z);
    const p = s.lp.map(Math.exp);
    if (objective.name === "ForwardKL") return p.map((v, k) => Math.exp(s.target[k]) - v);
    if (objective.name === "ReverseKL") {
      let divergence = 0;
      for (let k = 0; k < K; k++) divergence += p[k] * (s.lp[k] - s.target[k]);
      return p.map((v, k) => -v * (s.lp[k] - s.target[k] - divergence));
    }
    if (objective.name === "KTO") {
      let mean = 0;
      for (let k = 0; k < K; k++) mean += s.often[k] * (s.lp[k] - s.refLogp[k]);
      s.point = objective.beta * Math.max(0, mean);
    }
    const gradient = new Float64Array(K);
    const units = s.loss(s, s.weights, gradient);
    const total = sum(gradient);
    return p.map((v, k) => units > 0 ? -(gradient[k] - v * total) / units : 0);
  }

  /* Small and seedable; the same groups come whenever a student comes back to a setting. */
  function random(seed) {
    let a = seed >>> 0;
    return () => {
      a = (a + 0x6D2B79F5) >>> 0;
      let t = Math.imul(a ^ (a >>> 15), 1 | a);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  class Simulation {
    /* world: {bins, location, scale, peak, width, beta_star, plain}; method: {objective: {name,
       ...}, online, every, groups (0 for all of them), klInReward}; learningRate of Adam, or of plain
       gradient descent. */
    constructor(world, method, learningRate) {
      const {bins: K, location, scale, peak, width, beta_star, plain} = world;
      Object.assign(this, {K, method, learningRate, plain, objective: method.objective});
      this.refLogp = squashedCauchy(K, location, scale);
      this.reward = bump(K, peak, width);
      this.target = optimum(this.refLogp, this.reward, beta_star);
      this.z = this.refLogp.slice();
      this.m = new Float64Array(K);
      this.v = new Float64Array(K);
      this.steps = 0;
      this.draw = random(1);
      const made = LOSSES[method.objective.name];
      this.loss = made ? made(method.objective) : null;
      this.collect(this.refLogp);
    }

    /* Two responses for every group, from whoever writes. */
    collect(logits) {
      const {K, method} = this;
      this.oldLogp = logSoftmax(logits);
      const q = this.oldLogp.map(Math.exp);
      this.taken = this.reward.map(
        (r, k) => r - method.klInReward * (this.oldLogp[k] - this.refLogp[k]));
      if (!method.groups) {
        this.often = q;
        this.weights = (i, j) => q[i] * q[j];
      } else {
        const counts = new Float64Array(K * K);
        this.often = new Float64Array(K);
        const cumulative = new Float64Array(K);
        let total = 0;
        for (let k = 0; k < K; k++) cumulative[k] = total += q[k];
        const one = () => {
          const u = this.draw() * total;
          let low = 0, high = K - 1;
          while (low < high) {
            const middle = (low + high) >> 1;
            if (u < cumulative[middle]) high = middle; else low = middle + 1;
          }
          return low;
        };
        for (let g = 0; g < method.groups; g++) {
          const i = one(), j = one();
          counts[i * K + j] += 1 / method.groups;
          this.often[i] += 0.5 / method.groups;
          this.often[j] += 0.5 / method.groups;
        }
        this.weights = (i, j) => counts[i * K + j];
      }
    }

    step() {
      const {K, method} = this;
      if (method.online && this.steps % method.every === 0) this.collect(this.z);
      const push = velocity(this);
      this.steps += 1;
      if (this.plain) {
        for (let k = 0; k < K; k++) this.z[k] += this.learningRate * push[k];
        return;
      }
      const one = 1 - B1 ** this.steps, two = 1 - B2 ** this.steps;
      for (let k = 0; k < K; k++) {
        const g = -push[k];
        this.m[k] = B1 * this.m[k] + (1 - B1) * g;
        this.v[k] = B2 * this.v[k] + (1 - B2) * g * g;
        this.z[k] -= this.learningRate * (this.m[k] / one) / (Math.sqrt(this.v[k] / two) + EPSILON);
      }
    }

    /* What bandit.Trace records, exactly. */
    measure() {
      const {K, refLogp, reward, target, taken} = this;
      const lp = logSoftmax(this.z), p = lp.map(Math.exp);
      let earned = 0, reverse = 0, forward = 0, entropy = 0, distance = 0;
      let chosen = 0, rejected = 0;
      for (let k = 0; k < K; k++) {
        earned += p[k] * reward[k];
        reverse += p[k] * (lp[k] - refLogp[k]);
        forward += Math.exp(refLogp[k]) * (refLogp[k] - lp[k]);
        entropy -= p[k] * lp[k];
        distance += Math.abs(p[k] - Math.exp(target[k])) / 2;
        for (let j = 0; j < K; j++) {
          const w = this.weights(k, j);
          if (w === 0) continue;
          const a = lp[k] - refLogp[k], b = lp[j] - refLogp[j];
          const first = taken[k] >= taken[j];
          chosen += w * (first ? a : b);
          rejected += w * (first ? b : a);
        }
      }
      return {
        probability: p, reward: earned, reverse_kl: reverse, forward_kl: forward, entropy, distance,
        chosen_log_ratio: chosen, rejected_log_ratio: rejected,
      };
    }
  }

  return {Simulation};
})();

if (typeof module !== "undefined") module.exports = Engine;
