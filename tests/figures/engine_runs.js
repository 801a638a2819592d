"use strict";
// Runs the page's engine without a page: settings as JSON on stdin, what was recorded on stdout.
const Engine = require(process.argv[2]);
const {runs} = JSON.parse(require("fs").readFileSync(0, "utf8"));

const recorded = runs.map(({world, method, rate, steps, every}) => {
  const simulation = new Engine.Simulation(world, method, rate);
  const found = [simulation.measure()];
  for (let step = 1; step <= steps; step++) {
    simulation.step();
    if (step % every === 0) found.push(simulation.measure());
  }
  return found.map((one) => ({...one, probability: Array.from(one.probability)}));
});
console.log(JSON.stringify(recorded));
