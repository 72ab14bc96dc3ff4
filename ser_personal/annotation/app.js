"use strict";
const get = (id) => document.getElementById(id);
const state = JSON.parse(get("state").textContent);
// what a browser decodes and libsndfile doesn't
const OF_BROWSERS = /\.(m4a|mp4|aac|webm|mov|3gp)$/i;
const LOUD = 32767;
let sound = null, recorder = null, shown = null, working = false, used = false;

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}
function say(where, text, wrong = false) {
  get(where).textContent = text;
  get(where).classList.toggle("wrong", wrong);
}
/* a UserError's line is thrown as it is */
async function ask(what, parameters, body) {
  const response = await fetch(`${what}?${new URLSearchParams(parameters)}`, { method: "POST", body }).catch(() => {
    throw Error("No answer: is `ser app` still running?");
  });
  const text = await response.text();
  if (!response.ok) throw Error(text);
  return JSON.parse(text);
}
/* 16-bit WAV of samples in blocks, channel after channel in each frame */
function wav(blocks, channels, rate) {
  const bytes = blocks.reduce((sum, block) => sum + block.byteLength, 0), view = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, place) => view.setUint8(at + place, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + bytes, true); text(8, "WAVEfmt "); view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); view.setUint16(22, channels, true); view.setUint32(24, rate, true);
  view.setUint32(28, rate * channels * 2, true); view.setUint16(32, channels * 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, bytes, true);
  return new Blob([view, ...blocks], { type: "audio/wav" });
}
const whole = (sample) => Math.max(-LOUD, Math.min(LOUD, Math.round(sample * LOUD)));

function take(name, blob, seconds) {
  sound = { name, blob };
  URL.revokeObjectURL(get("listen").src);
  get("listen").src = URL.createObjectURL(blob);
  get("listen").hidden = false;
  get("what").textContent = seconds === undefined ? name : `${name}, ${clock(seconds)}`;
  // turns are of one recording
  if (used) get("turns").value = "";
  used = false;
  if (working) return;
  get("go").disabled = false;
  say("status", "");
}
async function choose(file) {
  if (!OF_BROWSERS.test(file.name)) return take(file.name, file);
  say("status", `Decoding ${file.name} ...`);
  try {
    const decoded = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await file.arrayBuffer());
    const channels = [...Array(decoded.numberOfChannels).keys()].map((channel) => decoded.getChannelData(channel));
    const samples = new Int16Array(decoded.length * channels.length);
    channels.forEach((of, channel) => of.forEach((value, place) => { samples[place * channels.length + channel] = whole(value); }));
    take(file.name, wav([samples], channels.length, 16000), decoded.duration);
  } catch {
    say("status", `${file.name}: this browser can't decode it. Give WAV, FLAC, MP3 or Ogg.`, true);
  }
}

/* the microphone as it is, without what calls do to a voice */
async function record() {
  const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  const context = new AudioContext(), blocks = [];
  const tap = `registerProcessor("tap", class extends AudioWorkletProcessor {
    process([[samples]]) { if (samples) this.port.postMessage(samples.slice()); return true; } })`;
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([tap], { type: "text/javascript" })));
  const node = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0 });
  let samples = 0;
  node.port.onmessage = ({ data }) => {
    blocks.push(Int16Array.from(data, whole));
    samples += data.length;
    const level = Math.max(...data.map(Math.abs));
    if (blocks.length % 30 === 0) get("what").textContent = `${clock(samples / context.sampleRate)} ${level < 0.003 ? "(no sound)" : ""}`;
  };
  context.createMediaStreamSource(stream).connect(node);
  recorder = async () => {
    recorder = null;
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
    // what is still on its way would overwrite the name
    node.port.onmessage = null;
    if (samples) take(`recording_${new Date().toTimeString().slice(0, 8).replaceAll(":", "-")}.wav`, wav(blocks, 1, context.sampleRate), samples / context.sampleRate);
  };
}

async function show() {
  const who = document.querySelector("[name=who]:checked").value, turns = who === "turns" ? get("turns").files[0] : undefined;
  const body = new Blob([turns ?? "", sound.blob]), started = Date.now();
  if (who === "turns" && !turns) return say("status", "Choose the file of turns: RTTM, TextGrid or a table.", true);
  if (body.size > state.largest) return say("status", `${Math.round(body.size / 2 ** 20)} MB, and at most ${state.largest / 2 ** 20} MB are taken: use \`ser annotate\`.`, true);
  get("shown").hidden = get("timeline").hidden = true;
  used ||= turns !== undefined;
  const waiting = setInterval(() => say("status", `Working, ${clock((Date.now() - started) / 1000)} ...`), 500);
  get("go").disabled = working = true;
  say("status", "Working ...");
  try {
    shown = await ask("recordings", {
      name: sound.name, speaker: who === "one" ? get("speaker").value : "", channel: who === "each" ? "each" : "mix",
      turns: turns?.name ?? "", turns_bytes: turns?.size ?? 0,
    }, body);
    clearInterval(waiting);
    say("status", "");
    result();
  } catch (error) {
    clearInterval(waiting);
    say("status", error.message, true);
  }
  working = false;
  get("go").disabled = recorder !== null;
}
function result() {
  const stem = shown.name.replace(/\.[^.]*$/, "");
  for (const [id, file, name] of [["table", "predictions.csv", `${stem}.csv`], ["page", "timeline.html", `${stem}.html`]]) {
    get(id).href = `${shown.key}/${file}`;
    get(id).download = name;
  }
  get("who").replaceChildren(...shown.speakers.map((speaker, place) => new Option(speaker ?? "speaker unknown", place)));
  get("agreed").checked = false;
  say("enrolled", "");
  suggest();
  get("timeline").src = `${shown.key}/timeline.html`;
  get("shown").hidden = get("timeline").hidden = false;
}
/* what a diariser calls a speaker (meeting/SPEAKER_00) is no name */
function suggest() {
  const speaker = shown.speakers[get("who").value] ?? "";
  get("as").value = speaker.includes("/") ? "" : speaker;
}
function list(people) {
  get("known").replaceChildren(...people.map(({ name }) => new Option(name)));
  get("people").replaceChildren(...people.map(({ name, utterances, labelled }) => {
    const item = document.createElement("li"), text = document.createElement("span"), button = document.createElement("button");
    const small = document.createElement("small");
    small.textContent = `${utterances} utterance${utterances === 1 ? "" : "s"}${labelled ? ", with labels" : ""}`;
    text.append(name, small);
    button.textContent = "Forget";
    button.setAttribute("aria-label", `Forget ${name}`);
    button.addEventListener("click", async () => {
      if (!button.classList.contains("sure")) {
        button.classList.add("sure");
        button.textContent = "Forget for good?";
        return;
      }
      await ask("forget", { name }).then(list, (error) => { small.textContent = error.message; });
    });
    button.addEventListener("blur", () => { button.classList.remove("sure"); button.textContent = "Forget"; });
    item.append(text, button);
    return item;
  }));
  if (!people.length) get("people").append(Object.assign(document.createElement("li"), { textContent: "Nobody is enrolled." }));
}

get("record").addEventListener("click", async () => {
  get("record").disabled = true;
  try {
    await (recorder ?? record)();
    say("status", "");
  } catch (error) {
    say("status", `No microphone: ${error.message}`, true);
  }
  get("record").disabled = false;
  get("record").textContent = recorder ? "Stop" : "Record";
  get("record").classList.toggle("recording", recorder !== null);
  get("choose").disabled = recorder !== null;
  get("go").disabled = recorder !== null || sound === null || working;
});
get("choose").addEventListener("click", () => {
  // so that the same file can be chosen again
  get("file").value = "";
  get("file").click();
});
get("file").addEventListener("change", () => { if (get("file").files.length) choose(get("file").files[0]); });
for (const name of ["dragover", "dragleave", "drop"]) {
  get("drop").addEventListener(name, (event) => {
    event.preventDefault();
    get("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length && !recorder) choose(event.dataTransfer.files[0]);
  });
}
get("speaker").addEventListener("input", () => { document.querySelector("[value=one]").checked = true; });
get("turns").addEventListener("change", () => {
  document.querySelector("[value=turns]").checked = true;
  used = false;
});
get("go").addEventListener("click", show);
get("who").addEventListener("change", suggest);
get("enroll").addEventListener("submit", async (event) => {
  event.preventDefault();
  const speaker = shown.speakers[get("who").value], name = get("as").value.trim();
  const parameters = { key: shown.key, name, agreed: get("agreed").checked ? "yes" : "no", ...(speaker === null ? {} : { speaker }) };
  say("enrolled", "Working ...");
  try {
    list(await ask("enroll", parameters));
    say("enrolled", `${name} is enrolled: what they say next starts from this.`);
  } catch (error) {
    say("enrolled", error.message, true);
  }
});
/* as high as what it shows, so that its player can't stick to the window by itself */
addEventListener("scroll", () => {
  const chart = get("timeline").contentDocument?.getElementById("chart"), top = chart?.querySelector(".top");
  if (!top) return;
  const above = -get("timeline").getBoundingClientRect().top - chart.offsetTop;
  top.style.transform = above > 0 ? `translateY(${Math.min(above, chart.clientHeight - top.clientHeight)}px)` : "";
}, { passive: true });
get("timeline").addEventListener("load", () => {
  const body = get("timeline").contentDocument.body;
  new ResizeObserver(() => { get("timeline").style.height = `${Math.ceil(body.getBoundingClientRect().height) + 8}px`; }).observe(body);
});
list(state.people);
