"use strict";
// What the server or a file says is only ever set as text, never as markup.

const byId = (id) => document.getElementById(id);
const WIDTH = 1000, HEIGHT = 260, LEFT = 45, RIGHT = 10, TOP = 10, BOTTOM = 30;
let limits = { max_bytes: Infinity, max_seconds: Infinity };
let answer = null, address = null, current = null, latest = null, playhead = 0;

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

async function start() {
  const response = await fetch("/api/models");
  const found = await response.json();
  limits = found;
  for (const model of found.models) {
    const option = document.createElement("option");
    option.value = model.name;
    option.textContent = `${model.name} (${model.num_classes} classes)`;
    byId("model").append(option);
  }
  byId("limits").textContent =
    `At most ${found.max_bytes / 1e6} MB and ${found.max_seconds} s. The file is forgotten once it is answered.`;
}

function send(file) {
  latest = file;
  if (current) current.abort();
  byId("result").hidden = true;
  if (file.size > limits.max_bytes) {
    say(`The file is too large: at most ${limits.max_bytes / 1e6} MB.`, true);
    return;
  }
  const request = new XMLHttpRequest();
  current = request;
  const query = new URLSearchParams({ model: byId("model").value, name: file.name });
  request.open("POST", `/api/recognise?${query}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.responseType = "json";
  request.upload.onprogress = (event) => say(`Sending: ${Math.round((100 * event.loaded) / event.total)} %`);
  request.upload.onload = () => say("Waiting for the answer ...");
  request.onerror = () => say("The server cannot be reached, or refused the file before it was sent.", true);
  request.onload = () => {
    if (request.status === 200) {
      show(request.response, file);
    } else {
      const reason = request.response && request.response.error;
      say(typeof reason === "string" ? reason : `The server answered ${request.status}.`, true);
    }
  };
  say("Sending ...");
  request.send(file);
}

function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}

function list(element, rows) {
  element.replaceChildren(...rows.map((row) => {
    const item = document.createElement("li");
    item.textContent = `${row.label}  ${percent(row.probability)}`;
    return item;
  }));
}

function show(found, file) {
  answer = found;
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(file);
  playhead = 0;
  byId("video").src = address;
  byId("result").hidden = false;
  list(byId("top"), found.top);
  byId("legend").replaceChildren(...found.top.map((row, index) => {
    const item = document.createElement("li");
    item.className = `c${index}`;
    item.textContent = row.label;
    return item;
  }));
  draw();
  follow();
  say(`${found.name}: ${found.num_frames} frames of ${found.width} x ${found.height}, ${found.windows.length} windows.`);
}

function svg(name, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function duration() {
  return Math.max(...answer.windows.map((window) => window.end_seconds), 1e-3);
}

function x(seconds) {
  return LEFT + ((WIDTH - LEFT - RIGHT) * Math.min(seconds, duration())) / duration();
}

function y(probability) {
  return TOP + (HEIGHT - TOP - BOTTOM) * (1 - probability);
}

function draw() {
  const parts = [];
  for (const value of [0, 0.5, 1]) {
    parts.push(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    parts.push(svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, `${100 * value} %`));
  }
  for (let step = 0; step <= 5; step++) {
    const seconds = (duration() * step) / 5;
    const anchor = step === 5 ? "end" : "middle";
    parts.push(svg("text", { x: x(seconds), y: HEIGHT - 8, "text-anchor": anchor }, `${seconds.toFixed(1)} s`));
  }
  answer.top.forEach((row, index) => {
    const points = answer.windows.map((window) => {
      const middle = (window.start_seconds + window.end_seconds) / 2;
      return [x(middle), y(window.probabilities[index])];
    });
    const first = points[0], last = points[points.length - 1];
    const line = [[x(0), first[1]], ...points, [x(duration()), last[1]]];
    const path = line.map((point) => point.map((value) => value.toFixed(1)).join(",")).join(" L");
    const curve = svg("path", { class: `c${index}`, d: `M${path}` });
    curve.append(svg("title", {}, row.label));
    parts.push(curve);
  });
  parts.push(svg("line", { class: "now", id: "cursor", x1: x(0), x2: x(0), y1: TOP, y2: HEIGHT - BOTTOM }));
  byId("timeline").replaceChildren(...parts);
}

function follow() {
  if (!answer) return;
  const seconds = playhead;
  const distance = (window) => Math.abs((window.start_seconds + window.end_seconds) / 2 - seconds);
  const nearest = answer.windows.reduce((best, window) => (distance(window) < distance(best) ? window : best));
  byId("now").textContent = seconds.toFixed(1);
  list(byId("window"), nearest.top);
  for (const name of ["x1", "x2"]) byId("cursor").setAttribute(name, x(seconds));
}

byId("form").addEventListener("submit", (event) => event.preventDefault());
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) send(event.target.files[0]);
});
byId("model").addEventListener("change", () => {
  if (latest) send(latest);
});
for (const name of ["dragenter", "dragover"]) {
  byId("drop").addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
}
byId("drop").addEventListener("dragleave", () => byId("drop").classList.remove("over"));
byId("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  byId("file").value = "";  // the file chosen before is no longer shown, and can be chosen again
  send(event.dataTransfer.files[0]);
});
for (const name of ["timeupdate", "seeked"]) {
  byId("video").addEventListener(name, () => {
    playhead = byId("video").currentTime;
    follow();
  });
}
byId("video").addEventListener("error", () => say("This browser cannot play the file; the answer holds all the same."));
byId("timeline").addEventListener("click", (event) => {
  if (!answer) return;
  const box = byId("timeline").getBoundingClientRect();
  const place = ((event.clientX - box.left) * WIDTH) / box.width;
  playhead = Math.min(1, Math.max(0, place - LEFT) / (WIDTH - LEFT - RIGHT)) * duration();
  byId("video").currentTime = playhead;
  follow();  // also where the browser cannot play the file
});
start().catch(() => say("The server cannot be reached.", true));
