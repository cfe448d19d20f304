// One stream to the server: StreamingRequest and StreamingResponse in proto3's JSON, sound as binary messages.

const MOST_UNSENT = 30; // s of sound that may wait in the browser

export class Stream {
  // `on` has a function for each kind of response that is of interest, and `error(code, message)` and `end()`.
  constructor(config, token, on) {
    const address = new URL("stream", location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    this.bytesPerSecond = 2 * config.sample_rate_hz;
    this.waiting = [JSON.stringify(token ? { token, config } : { config })];
    this.told = false; // whether the end has been explained
    this.socket = new WebSocket(address);
    this.socket.onopen = () => this.waiting.splice(0).forEach((message) => this.socket.send(message));
    this.socket.onmessage = ({ data }) => this.hear(JSON.parse(data), on);
    this.socket.onclose = ({ code }) => {
      if (!this.told) on.error("", code === 1009 ? "A message was longer than the server takes." : "The connection was lost; what was being said is dropped.");
      on.end();
    };
  }

  hear(message, on) {
    const [kind, value] = Object.entries(message)[0];
    if (kind === "error") {
      this.told = true;
      on.error(value.code, value.message);
      return;
    }
    this.told = this.told || kind === "closed";
    on[kind]?.(value);
  }

  get unsent() {
    return this.socket.bufferedAmount + this.waiting.reduce((sum, each) => sum + (each.byteLength ?? 0), 0);
  }

  get unsentSeconds() {
    return this.unsent / this.bytesPerSecond;
  }

  // False when so much waits that no more should come.
  sound(samples) {
    this.send(samples);
    return this.unsentSeconds < MOST_UNSENT;
  }

  control(name) {
    this.send(JSON.stringify({ control: name }));
  }

  send(message) {
    if (this.socket.readyState === WebSocket.CONNECTING) this.waiting.push(message);
    else if (this.socket.readyState === WebSocket.OPEN) this.socket.send(message);
  }

  close() {
    this.told = true;
    this.socket.close();
  }
}
