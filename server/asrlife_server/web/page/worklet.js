// Gathers what the microphone gives into 100 ms of PCM16, and says how loud it was.
class Gather extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.round(sampleRate / 10);
    this.begin();
  }

  begin() {
    this.samples = new Int16Array(this.size);
    this.filled = 0;
    this.peak = 0;
  }

  process([channels]) {
    for (const value of channels[0] ?? []) {
      const held = Math.max(-1, Math.min(1, value));
      this.peak = Math.max(this.peak, Math.abs(held));
      this.samples[this.filled++] = held < 0 ? held * 0x8000 : held * 0x7fff;
      if (this.filled === this.size) {
        this.port.postMessage({ samples: this.samples, peak: this.peak }, [this.samples.buffer]);
        this.begin();
      }
    }
    return true;
  }
}

registerProcessor("gather", Gather);
