// Where sound comes from: a microphone, or a file. Both give PCM16 in pieces of 100 ms, and stop when they are told to.

const RATE = 16000; // Hz of a file, decoded
const PIECE = RATE / 10;
const UNSENT = 256 * 1024; // bytes that may wait in the browser while a file is sent at once
const usable = (rate) => rate >= 8000 && rate <= 48000 && rate % 25 === 0;

export async function microphone() {
  if (!navigator.mediaDevices) throw new Error("The browser gives no microphone to this address: open the page at localhost, or over https.");
  const device = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } })
    .catch((error) => { throw new Error(error.name === "NotAllowedError" ? "The microphone was not allowed; allow it in the address bar, and start again." : `No microphone: ${error.message}`); });
  let context = new AudioContext();
  if (!usable(context.sampleRate)) {
    await context.close();
    context = new AudioContext({ sampleRate: RATE });
  }
  const found = new Microphone(device, context);
  await context.audioWorklet.addModule("worklet.js").catch((error) => { found.stop(); throw error; });
  return found;
}

class Microphone {
  constructor(device, context) {
    this.device = device;
    this.context = context;
    this.rate = context.sampleRate;
    this.ended = false;
  }

  async play(stream, level) {
    const gather = new AudioWorkletNode(this.context, "gather", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    await new Promise((done, fail) => {
      this.done = done;
      gather.port.onmessage = ({ data }) => {
        if (this.ended) return;
        level(data.peak);
        if (!stream.sound(data.samples)) fail(new Error("The server is far behind, so that the microphone was stopped. Try again when fewer streams are open, or choose a lighter method."));
      };
      this.device.getAudioTracks()[0].onended = done;
      this.context.createMediaStreamSource(this.device).connect(gather);
    }).finally(() => this.stop());
  }

  stop() {
    if (this.ended) return;
    this.ended = true;
    this.device.getTracks().forEach((track) => track.stop());
    this.context.close();
    this.done?.();
  }
}

export async function recording(file, atOnce) {
  if (!file) throw new Error("Choose a sound file first.");
  const bytes = await file.arrayBuffer();
  const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes)
    .catch(() => { throw new Error(`${file.name} is no sound that this browser can read; use WAV, FLAC, MP3, Ogg or M4A.`); });
  return new Recording(mixed(decoded), atOnce);
}

function mixed(decoded) {
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, n) => decoded.getChannelData(n));
  return Int16Array.from({ length: decoded.length }, (_, at) => {
    const value = channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length;
    return Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
  });
}

class Recording {
  constructor(samples, atOnce) {
    this.samples = samples;
    this.atOnce = atOnce;
    this.rate = RATE;
    this.ended = false;
  }

  async play(stream, level) {
    const begun = performance.now();
    for (let at = 0; at < this.samples.length && !this.ended; at += PIECE) {
      const piece = this.samples.slice(at, at + PIECE);
      level(piece.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 32768);
      while (!this.ended && (stream.unsent > UNSENT || (!this.atOnce && performance.now() - begun < at / 16))) await new Promise((go) => setTimeout(go, 20));
      if (!this.ended) stream.sound(piece);
    }
  }

  stop() {
    this.ended = true;
  }
}
