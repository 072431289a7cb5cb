"use strict";
// Replay of recorded episodes. `page` holds the data as viewer_page.py makes it. The state of the page is an episode and
// a time in s; `show` draws it, and everything that moves calls `seek`.

const KMH = 3.6;
const VIEW_M = 90;  // height of the close view
const element = id => document.getElementById(id);

// --- data ---

function bytes(text) {
  return Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
}

function unpack(packed) {
  const whole = new Int16Array(bytes(packed.data).buffer);
  return Float32Array.from(whole, value => value === page.missing ? NaN : value * packed.step);
}

function unpackMotion(motion) {
  const [x, y, heading, speed, distance] = ["x", "y", "heading", "speed", "distance"].map(name => unpack(motion[name]));
  return {x, y, heading, speed, distance, stepS: motion.step_s, last: x.length - 1, outcome: motion.outcome};
}

const opened = new Map();  // decoded episodes by number
function openEpisode(number) {
  if (!opened.has(number)) opened.set(number, decodeEpisode(page.episodes[number]));
  return opened.get(number);
}

function decodeEpisode(raw) {
  const values = {};
  for (const name of ["gas", "brake", "steer", "lidar", "q", "entropy", "std", "film", "bound"]) {
    values[name] = raw[name] === null ? null : unpack(raw[name]);
  }
  const sheet = raw.frames && new Image();
  if (sheet) {
    sheet.onload = () => layOut();
    sheet.src = raw.frames.source;
  }
  return {
    ...unpackMotion(raw), ...values, raw, sheet,
    track: openTrack(raw.track),
    bins: raw.bins && bytes(raw.bins.data),
    attention: raw.attention && bytes(raw.attention.data),
    mostAttention: raw.attention && bytes(raw.attention.data).reduce((best, value) => Math.max(best, value), 1),
    rivals: raw.rivals.map(rival => ({...unpackMotion(rival), kind: rival.kind, name: rival.name, gap: unpack(rival.gap)})),
  };
}

function openTrack(seed) {
  const track = page.tracks[seed];
  track.sides ??= [track.left, track.right].map(side => {
    const numbers = unpack(side);
    return Array.from({length: numbers.length / 2}, (_, i) => [numbers[2 * i], numbers[2 * i + 1]]);
  });
  return track;
}

function between(values, place) {  // value at a place between two indices, and at an end beyond it
  const low = Math.max(0, Math.min(Math.floor(place), values.length - 1));
  const high = Math.min(low + 1, values.length - 1);
  return values[low] + (values[high] - values[low]) * Math.max(0, Math.min(place - low, 1));
}

function poseAt(car, time) {
  return ["x", "y", "heading"].map(name => between(car[name], time / car.stepS));
}

// --- numbers as people read them ---

function lapTime(seconds) {
  const ms = Math.round(1000 * seconds);
  const two = number => String(number).padStart(2, "0");
  return `${Math.floor(ms / 60000)}:${two(Math.floor(ms / 1000) % 60)}.${String(ms % 1000).padStart(3, "0")}`;
}

function fixed(value, decimals) {
  if (!Number.isFinite(value)) return "-";
  const text = Math.abs(value).toFixed(decimals);
  return value < 0 && Number(text) ? `−${text}` : text;
}

function signed(value, decimals) {
  const text = fixed(value, decimals);
  return value > 0 && Number(text) ? `+${text}` : text;
}

// --- colours ---

const SHADES = 32;
function shadesOf(stops) {  // as many colours, evenly between the stops
  const channels = stops.map(stop => [1, 3, 5].map(at => parseInt(stop.slice(at, at + 2), 16)));
  return Array.from({length: SHADES}, (_, i) => {
    const place = i / (SHADES - 1) * (stops.length - 1);
    return `rgb(${[0, 1, 2].map(c => Math.round(between(channels.map(rgb => rgb[c]), place))).join()})`;
  });
}
const shades = shadesOf(page.colours);

function shadeOf(speed) {
  const [low, high] = page.speeds;
  return Math.round(Math.max(0, Math.min((speed - low) / (high - low), 1)) * (SHADES - 1));
}

const COLOURS = ["road", "edge", "casing", "ink", "soft", "card", "run", "reference", "other", "car", "beam"];
let colours = {};  // of the light or the dark page, by name

function readColours() {
  const style = getComputedStyle(document.documentElement);
  colours = Object.fromEntries(COLOURS.map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
}

// --- drawing on a canvas ---

function fitCanvas(canvas) {  // as many pixels as the screen has; returns the size in CSS pixels
  const {width, height} = canvas.getBoundingClientRect();
  const ratio = devicePixelRatio || 1;
  const size = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return {context, width, height};
}

function drawRoad(context, track, lineWidth) {
  context.beginPath();
  for (const side of track.sides) {
    side.forEach(([x, y], i) => i ? context.lineTo(x, y) : context.moveTo(x, y));
    context.closePath();
  }
  context.fillStyle = colours.road;
  context.fill("evenodd");
  context.strokeStyle = colours.edge;
  context.lineWidth = lineWidth;
  context.stroke();
}

function drawStart(context, car, halfWidth, lineWidth) {
  const [x, y, heading] = [car.x[0], car.y[0], car.heading[0]];
  const [across, along] = [-Math.sin(heading) * halfWidth, Math.cos(heading) * halfWidth];
  context.beginPath();
  context.moveTo(x - across, y - along);
  context.lineTo(x + across, y + along);
  context.strokeStyle = colours.ink;
  context.lineWidth = lineWidth;
  context.stroke();
}

function drawDriven(context, car, width) {  // dark outline first: the brightest colours would vanish on a bright road
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  for (let i = 0; i <= car.last; i++) context.lineTo(car.x[i], car.y[i]);
  context.strokeStyle = colours.casing;
  context.lineWidth = 1.5 * width;
  context.stroke();
  context.lineWidth = width;
  for (let first = 0; first < car.last;) {  // one path for a run of one colour
    const shade = shadeOf(car.speed[first + 1]);
    context.beginPath();
    context.moveTo(car.x[first], car.y[first]);
    do {
      first++;
      context.lineTo(car.x[first], car.y[first]);
    } while (first < car.last && shadeOf(car.speed[first + 1]) === shade);
    context.strokeStyle = shades[shade];
    context.stroke();
  }
}

function drawArrow(context, [x, y, heading], length, style, filled) {
  context.save();
  context.translate(x, y);
  context.rotate(heading);
  context.beginPath();
  for (const [along, across] of [[0.6, 0], [-0.4, 0.38], [-0.22, 0], [-0.4, -0.38]]) {
    context.lineTo(along * length, across * length);
  }
  context.closePath();
  context.lineWidth = 0.13 * length;
  context.lineJoin = "round";
  context.strokeStyle = filled ? colours.card : style;
  context.stroke();
  context.fillStyle = style;
  if (filled) context.fill();
  context.restore();
}

function drawCars(context, length) {
  for (const rival of episode.rivals) {
    if (ghosts.has(rival.kind)) drawArrow(context, poseAt(rival, time), length, colours[rival.kind], false);
  }
  drawArrow(context, poseAt(episode, time), length, colours.car, true);
}

// --- the map: everything that stands still is drawn once ---

const still = document.createElement("canvas");
let mapScale = null;  // pixels per m, and place of the origin

function drawStill() {
  const canvas = element("map");
  const {context, width, height} = fitCanvas(canvas);
  const points = episode.track.sides.flat();
  const [left, right] = [Math.min, Math.max].map(pick => points.reduce((best, [x]) => pick(best, x), points[0][0]));
  const [low, high] = [Math.min, Math.max].map(pick => points.reduce((best, [, y]) => pick(best, y), points[0][1]));
  const scale = Math.min((width - 52) / (right - left), (height - 44) / (high - low));
  mapScale = {scale, x: width / 2 - scale * (left + right) / 2, y: height / 2 + scale * (low + high) / 2};
  toMap(context);
  drawRoad(context, episode.track, 1 / scale);
  drawDriven(context, episode, 3.2 / scale);
  drawStart(context, episode, 12, 2.5 / scale);
  context.font = `600 ${13 / scale}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillStyle = colours.soft;
  for (const {number, x, y} of episode.track.corners) {
    context.save();
    context.translate(x, y);
    context.scale(1, -1);
    context.fillText(number, 0, 0);
    context.restore();
  }
  [still.width, still.height] = [canvas.width, canvas.height];
  still.getContext("2d").drawImage(canvas, 0, 0);
}

function toMap(context) {  // world coordinates, y upwards
  context.transform(mapScale.scale, 0, 0, -mapScale.scale, mapScale.x, mapScale.y);
}

function drawMap() {
  const {context, width, height} = fitCanvas(element("map"));
  context.drawImage(still, 0, 0, width, height);
  toMap(context);
  drawCars(context, 17 / mapScale.scale);
}

// --- the close view: heading up ---

function drawClose(step) {
  const {context, width, height} = fitCanvas(element("close"));
  const [x, y, heading] = poseAt(episode, time);
  const scale = height / VIEW_M;
  context.translate(width / 2, 0.75 * height);
  context.scale(scale, -scale);
  context.rotate(Math.PI / 2 - heading);
  context.translate(-x, -y);
  drawRoad(context, episode.track, 0.4);
  drawStart(context, episode, 8, 0.8);
  drawDriven(context, episode, 0.9);
  drawBeams(context, x, y, heading, step);
  drawCars(context, 6);
}

function drawBeams(context, x, y, heading, step) {
  const {beams, fov} = page.lidar;
  context.strokeStyle = context.fillStyle = colours.beam;
  context.lineWidth = 0.3;
  for (let beam = 0; beam < beams; beam++) {  // from left to right
    const angle = heading + fov * (0.5 - beam / (beams - 1));
    const reach = episode.lidar[step * beams + beam];
    const [endX, endY] = [x + reach * Math.cos(angle), y + reach * Math.sin(angle)];
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(endX, endY);
    context.stroke();
    context.beginPath();
    context.arc(endX, endY, 0.8, 0, 2 * Math.PI);
    context.fill();
  }
}

function drawFrames(step) {
  const canvas = element("frames");
  if (!canvas || !episode.sheet || !episode.sheet.complete) return;
  const {columns, size} = episode.raw.frames;
  const gap = Math.max(1, Math.round(size / 16));
  canvas.width = page.history * (size + gap) - gap;
  canvas.height = size;
  const context = canvas.getContext("2d");
  for (let place = 0; place < page.history; place++) {  // the first frame is repeated at the start
    const frame = Math.max(0, step - page.history + 1 + place);
    const [column, row] = [frame % columns, Math.floor(frame / columns)];
    context.drawImage(episode.sheet, column * size, row * size, size, size, place * (size + gap), 0, size, size);
  }
}

// --- instruments ---

function setBar(id, value, from, to, decimals) {  // bar from 0 to the value on a scale from `from` to `to`
  const share = number => 100 * (Math.max(from, Math.min(number, to)) - from) / (to - from);
  const ends = Number.isFinite(value) ? [share(0), share(value)].sort((a, b) => a - b) : [0, 0];
  const bar = element(`${id}-bar`);
  bar.style.left = `${ends[0]}%`;
  bar.style.width = `${ends[1] - ends[0]}%`;
  element(id).textContent = fixed(value, decimals);
}

function showInstruments(step) {
  element("speed").textContent = fixed(KMH * episode.speed[step], 0);
  element("distance").textContent = fixed(episode.distance[step], 0);
  for (const rival of episode.rivals) {
    element(`gap-${rival.kind}`).textContent = signed(rival.gap[step], 2);
  }
  setBar("gas", episode.gas[step], 0, 1, 2);
  setBar("brake", episode.brake[step], 0, 1, 2);
  setBar("steer", episode.steer[step], -1, 1, 2);
  ["gas", "brake", "steer"].forEach((name, i) => setBar(`std-${name}`, episode.std[3 * step + i], 0, 1, 2));
  element("q").textContent = fixed(episode.q[step], 1);
  element("entropy").textContent = fixed(episode.entropy[step], 2);
  if (episode.film) element("film").textContent = fixed(episode.film[step], 3);
  if (episode.bins) showShares("bins", episode.bins, episode.raw.bins.count, step, 255);
  if (episode.attention) {
    showShares("attention", episode.attention, episode.raw.attention.window, step, episode.mostAttention);
  }
}

function showShares(id, values, count, step, full) {  // a bar for every share of this step
  const path = Array.from({length: count}, (_, i) => {
    const value = values[step * count + i];
    return value ? `M${i} 1V${1 - value / full}h.88V1Z` : "";
  });
  const picture = element(id);
  if (!picture.firstChild) picture.append(svg("path", {class: "area"}));
  picture.setAttribute("viewBox", `0 0 ${count} 1`);
  picture.firstChild.setAttribute("d", path.join(""));
}

// --- charts: drawn once for an episode, only their cursor moves ---

const HEIGHT = 150;  // pixels
const MARGIN = {left: 46, right: 18, top: 22, bottom: 32};
let charts = [];

function svg(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function ticks(low, high, most) {
  const rough = Math.abs(high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(candidate => candidate >= rough);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const first = Math.ceil(Math.min(low, high) / step - 1e-9);
  const count = Math.floor(Math.max(low, high) / step + 1e-9) - first + 1;
  return Array.from({length: count}, (_, i) => ({value: (first + i) * step, text: fixed((first + i) * step, decimals)}));
}

function rangeOf(lines, zero) {  // of all values, with some room
  let [low, high] = zero ? [0, 0] : [Infinity, -Infinity];
  for (const {ys} of lines) {
    for (const y of ys) if (Number.isFinite(y)) [low, high] = [Math.min(low, y), Math.max(high, y)];
  }
  if (!(high > low)) [low, high] = Number.isFinite(low) ? [low - 0.5, low + 0.5] : [0, 1];
  const room = 0.06 * (high - low);
  return [zero && low === 0 ? 0 : low - room, high + room];
}

// A chart has a title, lines {xs, ys, kind}, ranges x and y, the label of x, and the functions `place` (of a moment on x)
// and `moment` (of a place); marks are vertical lines, and an image covers the whole of it.
function drawChart(holder, {title, lines, x, y, xLabel, height = HEIGHT, marks = [], image, place, moment}) {
  const width = Math.max(holder.clientWidth, 200);
  const toX = value => MARGIN.left + (value - x[0]) / (x[1] - x[0]) * (width - MARGIN.left - MARGIN.right);
  const toY = value => height - MARGIN.bottom - (value - y[0]) / (y[1] - y[0]) * (height - MARGIN.top - MARGIN.bottom);
  const picture = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title});
  const clip = svg("clipPath", {id: `${holder.id}-clip`});
  clip.append(svg("rect", {
    x: MARGIN.left, y: MARGIN.top, width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom,
  }));
  picture.append(clip);
  picture.append(svg("text", {x: MARGIN.left, y: 13}, title));
  for (const {value, text} of ticks(...y, 3)) {
    picture.append(svg("line", {class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: toY(value), y2: toY(value)}));
    picture.append(svg("text", {x: MARGIN.left - 6, y: toY(value) + 4, "text-anchor": "end"}, text));
  }
  for (const {value, text} of ticks(...x, width / 90)) {
    picture.append(svg("text", {x: toX(value), y: height - MARGIN.bottom + 14, "text-anchor": "middle"}, text));
  }
  picture.append(svg("text", {x: width - MARGIN.right, y: height - 4, "text-anchor": "end"}, xLabel));
  for (const mark of marks) {
    picture.append(svg("line", {class: "corner", x1: toX(mark), x2: toX(mark), y1: MARGIN.top, y2: height - MARGIN.bottom}));
  }
  if (image) {
    picture.append(svg("image", {
      href: image, x: toX(x[0]), y: MARGIN.top, width: toX(x[1]) - toX(x[0]), height: height - MARGIN.top - MARGIN.bottom,
      preserveAspectRatio: "none", style: "image-rendering: pixelated",
    }));
  }
  for (const {xs, ys, kind} of lines) {
    const points = Array.from(ys, (value, i) => Number.isFinite(value) ? `${toX(xs[i]).toFixed(1)} ${toY(value).toFixed(1)}` : "");
    const path = points.map((point, i) => point && `${i && points[i - 1] ? "L" : "M"}${point}`).join("");
    picture.append(svg("path", {class: `line ${kind}`, d: path, "clip-path": `url(#${clip.id})`}));
  }
  const cursor = svg("line", {class: "cursor", y1: MARGIN.top, y2: height - MARGIN.bottom});
  picture.append(cursor);
  const goTo = event => {
    const box = picture.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width * width - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    pause();
    seek(moment(x[0] + Math.max(0, Math.min(share, 1)) * (x[1] - x[0])));
  };
  picture.addEventListener("pointerdown", goTo);
  picture.addEventListener("pointermove", event => event.buttons === 1 && goTo(event));
  holder.replaceChildren(picture);
  return () => {
    const at = toX(place()).toFixed(1);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
  };
}

function evenly(count, last) {
  return Float32Array.from({length: count}, (_, i) => i / (count - 1) * last);
}

function chartsOverDistance() {
  const length = episode.track.length;
  const shared = {
    x: [0, length], xLabel: "distance, m", marks: episode.raw.sectors.slice(0, -1).map(sector => sector.end),
    place: () => between(episode.distance, time / episode.stepS),
    moment: distance => {
      const step = episode.distance.findIndex(reached => reached >= distance);
      return (step < 0 ? episode.last : step) * episode.stepS;
    },
  };
  const kmh = speeds => Float32Array.from(speeds, speed => KMH * speed);
  const standing = page.standing_share * length;  // until there, the car gains speed from its standing start
  const moving = ({xs, ys}) => ({ys: ys.filter((_, i) => xs[i] > standing)});
  const isShort = Math.max(...episode.distance) <= standing;
  const speeds = episode.rivals.map(rival => ({xs: rival.distance, ys: kmh(rival.speed), kind: rival.kind}));
  if (episode.bound) speeds.unshift({xs: evenly(episode.bound.length, length), ys: kmh(episode.bound), kind: "bound"});
  speeds.push({xs: episode.distance, ys: kmh(episode.speed), kind: "run"});
  const gaps = episode.rivals.map(({gap, kind}) => ({xs: episode.distance, ys: gap, kind}));
  return {
    "chart-speed": {...shared, title: "speed, km/h", lines: speeds, height: 210, y: isShort ? rangeOf(speeds, true) : rangeOf(speeds.map(moving), false)},
    "chart-gap": {...shared, title: "gap to the other drivers, s", lines: gaps, y: rangeOf(gaps, true)},
  };
}

function chartsOverTime() {
  const seconds = evenly(episode.last + 1, episode.last * episode.stepS);
  const shared = {
    x: [0, episode.last * episode.stepS], xLabel: "time, s", place: () => time, moment: second => second,
  };
  const chart = (title, series, zero, y) => {
    const lines = Object.entries(series).map(([kind, ys]) => ({xs: seconds, ys, kind}));
    return {...shared, title, lines, y: y ?? rangeOf(lines, zero)};
  };
  const {gas, brake, steer, film} = episode;
  const made = {
    "chart-action": chart("gas, brake and steering", {run: gas, brake, steer}, true, [-1.05, 1.05]),
    "chart-q": chart("Q, mean of the heads", {run: episode.q}, false),
    "chart-entropy": chart("entropy of the policy, nats", {run: episode.entropy}, false),
  };
  if (film) made["chart-film"] = chart("FiLM, mean |scale|", {run: film}, true);
  if (episode.attention) {
    const window = episode.raw.attention.window;
    const image = attentionImage(window);
    made["chart-attention"] = {...shared, title: "attention, by steps ago", lines: [], y: [window - 0.5, -0.5], image};
  }
  return made;
}

function attentionImage(window) {  // a column for every step, its newest row at the top
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [episode.last, window];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(episode.last, window);
  const [red, green, blue] = colours.run.match(/[0-9a-f]{2}/gi).map(part => parseInt(part, 16));
  for (let step = 0; step < episode.last; step++) {
    for (let row = 0; row < window; row++) {
      const value = episode.attention[step * window + window - 1 - row] / episode.mostAttention;
      pixels.data.set([red, green, blue, Math.round(255 * value)], 4 * (row * episode.last + step));
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

// --- state ---

let number = 0, episode = null, time = 0, playing = false, before = 0, shownStep = -1;
const ghosts = new Set(page.episodes[0].rivals.map(rival => rival.kind));

function show() {
  const step = Math.min(Math.floor(time / episode.stepS + 1e-6), episode.last);
  const [x, y] = poseAt(episode, time);
  drawMap();
  drawClose(step);
  if (step !== shownStep) {
    drawFrames(step);
    showInstruments(step);
    shownStep = step;
  }
  charts.forEach(move => move());
  const slider = element("slider");
  slider.value = step;
  element("time").textContent = lapTime(time);
  slider.setAttribute("aria-valuetext", element("time").textContent);
  Object.assign(element("map").dataset, {x: x.toFixed(2), y: y.toFixed(2), step});
}

function seek(moment) {
  time = Math.max(0, Math.min(moment, episode.last * episode.stepS));
  show();
}

function goBy(steps) {  // from between two steps to a whole one
  pause();
  const place = time / episode.stepS;
  seek((steps > 0 ? Math.floor(place + 1e-6) : Math.ceil(place - 1e-6)) * episode.stepS + steps * episode.stepS);
}

function layOut() {  // everything that depends on the size, the colours or the episode
  readColours();
  shownStep = -1;
  drawStill();
  charts = Object.entries({...chartsOverDistance(), ...chartsOverTime()})
    .filter(([id]) => element(id)).map(([id, chart]) => drawChart(element(id), chart));
  show();
}

function choose(chosen) {
  number = chosen;
  episode = openEpisode(number);
  pause();
  for (const one of document.querySelectorAll("[data-episode]")) one.hidden = Number(one.dataset.episode) !== number;
  for (const button of document.querySelectorAll("[data-number]")) {
    button.setAttribute("aria-pressed", Number(button.dataset.number) === number);
  }
  element("slider").max = episode.last;
  element("end").textContent = lapTime(episode.last * episode.stepS);
  if (episode.bins) element("bins-range").textContent = `${fixed(episode.raw.bins.low, 0)} to ${fixed(episode.raw.bins.high, 0)}`;
  time = 0;
  layOut();
}

// --- playing ---

function play() {
  if (time >= episode.last * episode.stepS) seek(0);
  playing = true;
  element("play").textContent = "Pause";
  before = performance.now();
  requestAnimationFrame(tick);
}

function pause() {
  playing = false;
  element("play").textContent = "Play";
}

function tick(now) {
  if (!playing) return;
  seek(time + Number(element("rate").value) * Math.max(0, now - before) / 1000);
  before = now;
  if (time >= episode.last * episode.stepS) pause();
  else requestAnimationFrame(tick);
}

// --- keys, clicks, and changes of the window ---

const KEYS = {
  " ": () => playing ? pause() : play(),
  ArrowLeft: event => goBy(event.shiftKey ? -Math.round(1 / episode.stepS) : -1),
  ArrowRight: event => goBy(event.shiftKey ? Math.round(1 / episode.stepS) : 1),
  Home: () => { pause(); seek(0); },
  End: () => { pause(); seek(Infinity); },
  n: () => choose((number + 1) % page.episodes.length),
  p: () => choose((number + page.episodes.length - 1) % page.episodes.length),
};

addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
  if (event.key === " " && event.target.matches("button, [type=checkbox]")) return;  // it presses what has the focus
  const digit = /^[0-9]$/.test(event.key) ? (Number(event.key) + 9) % 10 : NaN;  // 1 is the first one, 0 the tenth
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act && !(digit < page.episodes.length)) return;
  event.preventDefault();
  if (act) act(event);
  else choose(digit);
});

for (const button of document.querySelectorAll("[data-number]")) {
  button.addEventListener("click", event => {
    choose(Number(button.dataset.number));
    if (event.detail) button.blur();  // after a click with the mouse, the space bar plays
  });
}
for (const box of document.querySelectorAll("[data-ghost]")) {
  box.addEventListener("change", () => {
    if (box.checked) ghosts.add(box.dataset.ghost);
    else ghosts.delete(box.dataset.ghost);
    show();
  });
}
element("play").addEventListener("click", event => {
  KEYS[" "]();
  if (event.detail) event.target.blur();
});
element("slider").addEventListener("input", event => {
  pause();
  seek(event.target.value * episode.stepS);
});
element("map").addEventListener("pointerdown", event => {
  const box = element("map").getBoundingClientRect();
  const x = (event.clientX - box.left - mapScale.x) / mapScale.scale;
  const y = (mapScale.y - event.clientY + box.top) / mapScale.scale;
  let nearest = 0;
  const away = i => Math.hypot(episode.x[i] - x, episode.y[i] - y);
  for (let i = 1; i <= episode.last; i++) if (away(i) < away(nearest)) nearest = i;
  pause();
  seek(nearest * episode.stepS);
});

function drawScale() {
  const context = element("scale").getContext("2d");
  const {width, height} = element("scale");
  shades.forEach((shade, i) => {
    context.fillStyle = shade;
    context.fillRect(i * width / SHADES, 0, width / SHADES + 1, height);
  });
  element("slow").textContent = `≤ ${fixed(KMH * page.speeds[0], 0)}`;
  element("fast").textContent = `${fixed(KMH * page.speeds[1], 0)} km/h`;
}

drawScale();
choose(0);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", layOut);
let laidOut = document.querySelector("main").clientWidth, waiting = 0;
new ResizeObserver(([{target}]) => {
  if (target.clientWidth === laidOut) return;
  laidOut = target.clientWidth;
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(layOut);  // once for many changes
}).observe(document.querySelector("main"));
