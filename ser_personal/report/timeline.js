"use strict";
const get = (id) => document.getElementById(id);
const data = JSON.parse(get("data").textContent);
const rows = data.rows.map(([who, start, end, overlap, short, ...flat], number) => ({
  number, who, start, end, overlap, short,
  values: data.attributes.map((_, a) => flat.slice(4 * a, 4 * a + 4)), // calibrated, raw, low, high
}));
const lanes = [...document.querySelectorAll(".lane")].map((svg, who) => ({
  svg, own: rows.filter((row) => row.who === who), colour: `var(--s${who % 6})`,
}));
const sound = get("sound"), LEFT = 34, RIGHT = 18, CAPTION = 18;
const view = { from: 0, to: data.seconds };
let now = 0, chosen = null, drawing = 0;
const source = JSON.parse(get("source").textContent);

function clock(seconds, tenths) {
  const whole = Math.floor(seconds + 1e-6), minutes = Math.floor(whole / 60), two = (n) => String(n).padStart(2, "0");
  const shown = minutes < 60 ? `${minutes}:${two(whole % 60)}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
  return tenths ? `${shown}.${Math.floor((seconds + 1e-6 - whole) * 10)}` : shown;
}
function draw(parent, tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}
const width = () => get("axis").clientWidth;
const x = (time, from = view.from, to = view.to) => LEFT + ((time - from) / (to - from)) * (width() - LEFT - RIGHT);
const timeAt = (event, svg) => view.from + ((event.clientX - svg.getBoundingClientRect().left - LEFT) / (width() - LEFT - RIGHT)) * (view.to - view.from);
const inside = (place) => Math.min(Math.max(place, LEFT), width() - RIGHT).toFixed(1);

/* everything that depends on the part of the recording that is shown */
function render() {
  drawing = 0;
  const shown = Number(get("shown").value);
  const attributes = shown < 0 ? data.attributes.map((_, a) => a) : [shown];
  const height = shown >= 0 ? 132 : data.categories ? 40 : 62;
  const ticks = timeTicks();
  const axis = get("axis");
  axis.replaceChildren();
  ticks.forEach(({ time, label }) => {
    draw(axis, "path", { class: "grid", d: `M${x(time)} 17V22` });
    draw(axis, "text", { x: x(time), y: 13, "text-anchor": "middle" }, label);
  });
  for (const lane of lanes) {
    const { svg } = lane;
    svg.replaceChildren();
    svg.setAttribute("height", attributes.length * (CAPTION + height) + 8);
    const seen = lane.own.filter((row) => row.end >= view.from && row.start <= view.to);
    attributes.forEach((a, place) => {
      const top = place * (CAPTION + height) + CAPTION, { low, high, ticks: values } = data.axes[a];
      const y = (value) => (top + height - ((value - low) / (high - low)) * height).toFixed(1);
      draw(svg, "text", { x: LEFT + 4, y: top - 5 }, data.attributes[a]);
      const lines = values.map((value) => `M${LEFT} ${y(value)}H${width() - RIGHT}`);
      draw(svg, "path", { class: "grid", d: lines.join("") + ticks.map(({ time }) => `M${x(time)} ${top}V${top + height}`).join("") });
      for (const value of values) draw(svg, "text", { x: LEFT - 6, y: Number(y(value)) + 4, "text-anchor": "end" }, value);
      const d = { band: "", raw: "", value: "", "value pale": "" };
      for (const row of seen) {
        const [value, raw, least, most] = row.values[a];
        const left = inside(x(row.start)), right = inside(Math.max(x(row.end) - 1, x(row.start) + 2));
        if (least !== null && most !== null) d.band += `M${left} ${y(least)}H${right}V${y(most)}H${left}Z`;
        if (raw !== null) d.raw += `M${left} ${y(raw)}H${right}`;
        d[row.short || row.overlap > (row.end - row.start) / 2 ? "value pale" : "value"] += `M${left} ${y(value)}H${right}`;
      }
      for (const [name, path] of Object.entries(d)) draw(svg, "path", { class: name, d: path });
      if (chosen?.who === lanes.indexOf(lane) && seen.includes(chosen)) {
        const left = Number(inside(x(chosen.start))), right = Number(inside(x(chosen.end)));
        draw(svg, "rect", { class: "chosen", x: left - 2, y: top - 1, width: Math.max(right - left, 2) + 4, height: height + 2, rx: 3 });
      }
    });
  }
  overview();
  head();
}
const later = () => { drawing ||= requestAnimationFrame(render); };

function timeTicks() {
  const room = (width() - LEFT - RIGHT) / (data.seconds >= 3600 ? 84 : 64);
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
  const step = steps.find((one) => (view.to - view.from) / one <= room) ?? 28800;
  const found = [];
  for (let time = Math.ceil(view.from / step) * step; time <= view.to; time += step) found.push({ time, label: clock(time) });
  return found;
}
function overview() {
  const svg = get("overview"), bar = Math.max(3, Math.min(8, 48 / lanes.length)), height = lanes.length * (bar + 2) + 6;
  const at = (time) => x(time, 0, data.seconds);
  svg.setAttribute("height", height);
  svg.replaceChildren();
  lanes.forEach(({ own, colour }, place) => {
    const d = own.map((row) => `M${at(row.start).toFixed(1)} ${place * (bar + 2) + 4}h${Math.max(1, at(row.end) - at(row.start)).toFixed(1)}v${bar}H${at(row.start).toFixed(1)}Z`);
    draw(svg, "path", { d: d.join(""), style: `fill: ${colour}` });
  });
  if (view.from > 0 || view.to < data.seconds) {
    draw(svg, "path", { class: "out", d: `M${LEFT} 0H${at(view.from)}V${height}H${LEFT}ZM${at(view.to)} 0H${width() - RIGHT}V${height}H${at(view.to)}Z` });
    draw(svg, "rect", { class: "view", x: at(view.from), y: 1, width: Math.max(2, at(view.to) - at(view.from)), height: height - 2, rx: 3 });
  }
}
function look(from, to) {
  const span = Math.min(Math.max(to - from, Math.min(4, data.seconds)), data.seconds);
  view.from = Math.min(Math.max(0, (from + to - span) / 2), data.seconds - span);
  view.to = view.from + span;
  later();
}
function zoom(factor, around) {
  look(around - (around - view.from) * factor, around + (view.to - around) * factor);
}
/* the line of the moment that plays */
function head() {
  const line = get("head"), place = get("axis").getBoundingClientRect().left - get("chart").getBoundingClientRect().left;
  line.hidden = now < view.from || now > view.to;
  line.style.left = `${place + x(now) - 1}px`;
  line.style.top = `${get("overview").getBoundingClientRect().top - get("chart").getBoundingClientRect().top}px`;
  get("clock").textContent = `${clock(now)} / ${clock(data.seconds)}`;
}

function parts(row) {
  const marks = [row.short ? "under a second" : "", row.overlap ? `overlapped for ${row.overlap.toFixed(1)} s` : ""];
  const values = row.values.map(([value, raw, low, high], a) => {
    const between = low === null ? "" : ` (${low.toFixed(2)} to ${high.toFixed(2)})`;
    return [data.attributes[a], value.toFixed(2), raw === null ? "" : `${between}, raw ${raw.toFixed(2)}`];
  });
  const where = `${clock(row.start, true)} to ${clock(row.end, true)}`;
  return [["", data.speakers[row.who], `, ${where}`], ...values, ["", "", marks.filter(Boolean).join(", ")]];
}
function say(row) {
  const said = get("said");
  if (row === null) return;
  said.replaceChildren();
  for (const [before, value, after] of parts(row)) {
    const span = document.createElement("span"), bold = document.createElement("b");
    bold.textContent = value;
    span.append(before && `${before} `, bold, after);
    if (span.textContent.trim()) said.append(span);
  }
}
function choose(row) {
  if (row === chosen) return;
  chosen = row;
  say(row);
  document.querySelectorAll("circle.chosen").forEach((dot) => dot.classList.remove("chosen"));
  if (row !== null) document.querySelector(`circle[data-row="${row.number}"]`)?.classList.add("chosen");
  later();
}
function go(time, { play = true, row = null } = {}) {
  now = Math.min(Math.max(0, time), data.seconds);
  if (row !== null) choose(row);
  if (now < view.from || now > view.to) look(now - (view.to - view.from) / 4, now + (3 * (view.to - view.from)) / 4);
  if (row !== null) get("spoken").textContent = parts(row).map((part) => part.join(" ")).join("; ");
  if (!get("play").disabled) {
    sound.currentTime = now;
    if (play) sound.play().catch(failed);
  }
  later();
}
function nearest(lane, time, reach) {
  const far = (row) => Math.max(row.start - time, time - row.end, 0);
  const best = lane.own.reduce((a, b) => (far(b) <= far(a) ? b : a));
  return far(best) <= reach ? best : null;
}
function load() {
  if (!source.startsWith("data:")) {
    sound.src = source;
    return;
  }
  const bytes = Uint8Array.from(atob(source.slice(source.indexOf(",") + 1)), (sign) => sign.charCodeAt(0));
  sound.src = URL.createObjectURL(new Blob([bytes], { type: "audio/flac" })); // which can be sought in, as a data URI can't
}
function failed(error) {
  if (error.name === "AbortError") return; // paused
  get("play").disabled = true;
  get("play").textContent = "No sound";
  get("said").textContent = `The sound can't be played: ${source.startsWith("data:") ? "embedded" : decodeURI(source)}`;
}
function follow() {
  if (sound.paused) return;
  now = sound.currentTime;
  const saying = rows.filter((row) => row.start <= now && now < row.end);
  if (saying.length && !saying.includes(chosen)) choose(saying[0]);
  if (now > view.to) look(now, now + view.to - view.from);
  head();
  requestAnimationFrame(follow);
}

lanes.forEach((lane) => {
  const { svg, own } = lane, reach = () => (8 * (view.to - view.from)) / width();
  svg.addEventListener("click", (event) => {
    const time = timeAt(event, svg), row = nearest(lane, time, reach());
    go(row === null ? time : Math.min(Math.max(time, row.start), row.end - 0.05), { row });
  });
  svg.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") say(nearest(lane, timeAt(event, svg), reach()) ?? chosen);
  });
  svg.addEventListener("pointerleave", () => say(chosen));
  svg.addEventListener("keydown", (event) => {
    const place = chosen?.who === own[0].who ? own.indexOf(chosen) : -1;
    const target = { ArrowRight: place + 1, ArrowLeft: Math.max(place - 1, 0), Home: 0, End: own.length - 1 }[event.key];
    if (own[target] !== undefined) go(own[target].start, { play: false, row: own[target] });
    else if (event.key === "Enter" && chosen) go(chosen.start, { row: chosen });
    else if (event.key !== " ") return;
    else get("play").click();
    event.preventDefault();
  });
});
get("chart").addEventListener("wheel", (event) => {
  if (event.ctrlKey || event.metaKey) zoom(event.deltaY > 0 ? 1.25 : 0.8, timeAt(event, get("axis")));
  else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    const by = (event.deltaX / width()) * (view.to - view.from);
    look(view.from + by, view.to + by);
  } else return;
  event.preventDefault();
}, { passive: false });
let pressed = null;
const inOverview = (event) => Math.min(Math.max(0, ((event.clientX - get("overview").getBoundingClientRect().left - LEFT) / (width() - LEFT - RIGHT)) * data.seconds), data.seconds);
get("overview").addEventListener("pointerdown", (event) => {
  pressed = event.clientX;
  get("overview").setPointerCapture(event.pointerId);
  get("overview").dataset.from = inOverview(event);
});
get("overview").addEventListener("pointerup", (event) => {
  const from = Number(get("overview").dataset.from), to = inOverview(event), half = (view.to - view.from) / 2;
  if (Math.abs(event.clientX - pressed) > 5) look(Math.min(from, to), Math.max(from, to));
  else look(to - half, to + half);
});
const middle = () => (now >= view.from && now <= view.to && now > 0 ? now : (view.from + view.to) / 2);
get("closer").addEventListener("click", () => zoom(0.5, middle()));
get("wider").addEventListener("click", () => zoom(2, middle()));
get("whole").addEventListener("click", () => look(0, data.seconds));
get("shown").addEventListener("change", later);
for (const name of ["raw", "band"]) get(name)?.addEventListener("change", () => get("chart").classList.toggle(`no-${name}`, !get(name).checked));
get("play").addEventListener("click", () => (sound.paused ? sound.play().catch(failed) : sound.pause()));
sound.addEventListener("play", () => { get("play").textContent = "Pause"; follow(); });
sound.addEventListener("pause", () => { get("play").textContent = "Play"; });
document.addEventListener("click", (event) => {
  const row = rows[event.target.dataset?.row];
  if (row) go(row.start, { row });
});

document.querySelectorAll(".planes svg").forEach((svg, who) => {
  const [valence, arousal] = ["valence", "arousal"].map((name) => data.attributes.indexOf(name));
  const { low, high, ticks } = data.plane, at = (value) => 36 + ((value - low) / (high - low)) * 252, up = (value) => 288 - at(value);
  for (const tick of ticks) {
    draw(svg, "path", { class: "grid", d: `M${at(tick)} 0V252M36 ${up(tick)}H288` });
    draw(svg, "text", { x: at(tick), y: 267, "text-anchor": "middle" }, tick);
    draw(svg, "text", { x: 30, y: up(tick) + 4, "text-anchor": "end" }, tick);
  }
  draw(svg, "text", { x: 162, y: 286, "text-anchor": "middle" }, "valence");
  draw(svg, "text", { x: 0, y: 0, transform: "translate(10 126) rotate(-90)", "text-anchor": "middle" }, "arousal");
  const stops = ["#443983", "#31688e", "#21918c", "#35b779", "#90d743"];
  for (const row of lanes[who].own) {
    const share = Math.min(row.start / data.seconds, 0.9999) * 4, stop = Math.floor(share), mix = Math.round((share - stop) * 100);
    const fill = `fill: color-mix(in srgb, ${stops[stop + 1]} ${mix}%, ${stops[stop]})`;
    draw(svg, "circle", { cx: at(row.values[valence][0]), cy: up(row.values[arousal][0]), r: lanes[who].own.length > 300 ? 3 : 5, style: fill, "data-row": row.number });
  }
});
get("all").addEventListener("toggle", () => {
  const table = get("all").querySelector("table");
  if (table.rows.length) return;
  const line = (parent, cells, tag) => {
    const made = parent.insertRow();
    for (const cell of cells) made.appendChild(document.createElement(tag)).append(cell);
  };
  line(table.createTHead(), ["from", "to", "speaker", ...data.attributes, ...(data.categories ? [] : data.attributes.map((name) => `${name}, raw`))], "th");
  const body = table.createTBody();
  for (const row of rows) {
    const button = document.createElement("button");
    Object.assign(button, { className: "moment", textContent: clock(row.start, true) });
    button.dataset.row = row.number;
    const values = (data.categories ? [0] : [0, 1]).flatMap((kind) => row.values.map((of) => of[kind].toFixed(2)));
    line(body, [button, clock(row.end, true), data.speakers[row.who], ...values], "td");
  }
});

sound.addEventListener("error", failed);
if (source) load();
new ResizeObserver(later).observe(get("chart"));
render();
