"use strict";
// Shows the values of all curves at the step under the pointer.
for (const plot of document.querySelectorAll(".plot")) {
  const chart = JSON.parse(plot.dataset.chart);
  const [low, high] = chart.x;
  let rule, tip;
  const hide = () => { rule?.remove(); tip?.remove(); rule = tip = undefined; };
  const nearest = (points, x) => points.reduce((best, point) => Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);
  const show = (event) => {
    const box = plot.getBoundingClientRect();
    const x = low + (event.clientX - box.left) / box.width * (high - low);
    const found = chart.series.map((series) => [series, nearest(series.points, x)]);
    const step = found.map(([, point]) => point[0]).reduce((a, b) => Math.abs(b - x) < Math.abs(a - x) ? b : a);
    if (!rule) {
      rule = plot.appendChild(Object.assign(document.createElement("div"), { className: "rule" }));
      tip = plot.appendChild(Object.assign(document.createElement("div"), { className: "tip" }));
    }
    const left = (step - low) / (high - low) * box.width;
    rule.style.left = left + "px";
    tip.replaceChildren(document.createTextNode("step " + step.toLocaleString("en")));
    for (const [series, point] of found) {
      const row = tip.appendChild(document.createElement("div"));
      const key = row.appendChild(document.createElement("span"));
      key.className = "key c" + series.colour;
      const where = point[0] === step ? "" : " (step " + point[0].toLocaleString("en") + ")";
      row.append(series.label + " " + point[2] + where);
    }
    const room = box.width - left - tip.offsetWidth - 14;
    tip.style.left = Math.max(-40, room > 0 ? left + 12 : left - tip.offsetWidth - 12) + "px";
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", hide);
}
