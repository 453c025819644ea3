// Decode vaecodec's codes of a number of bytes (trellis codes, with or without stages before them) in any browser and in
// Node. One module without dependencies. docs/codes.md specifies the codes; the results are those of Python, bit for bit.
//
//   import {openCode} from "./vaecodec.mjs";
//   const code = openCode(new Uint8Array(await (await fetch("vae128.onnx")).arrayBuffer()), 32);
//   const latents = code.decode(codes);  // Uint8Array of n * 32 bytes to Float32Array of n * code.width numbers

const {fround, min, sqrt} = Math;
const CENTROIDS = 256;
const FADING = 1.5;

/**
 * Read how a codec's codes of `bytes` bytes are decoded.
 * @param {Uint8Array} file a codec file, or the JSON text of its `vaecodec.calibration`
 * @param {number} bytes bytes of one code
 * @returns {Code}
 * @throws {Error} the file has no codes, or none of so many bytes
 */
export function openCode(file, bytes) {
  const calibration = JSON.parse(file[0] === 0x7b ? text(file) : metadata(file)["vaecodec.calibration"] ?? "{}");
  if (!calibration.codes) throw new Error("expected a codec file that holds codes; `vaecodec info` shows whether it does");
  return new Code(calibration.codes, bytes);
}

/** Every key and value of a codec file's metadata, as strings: docs/format.md lists them. */
export function metadata(file) {
  const found = {};
  for (const [number, entry] of fields(file)) {
    if (number !== 14) continue;
    const pair = Object.fromEntries([...fields(entry)].map(([at, bytes]) => [at, text(bytes)]));
    found[pair[1]] = pair[2] ?? "";
  }
  return found;
}

/** Codes of one size and what they stand for. */
export class Code {
  constructor(stored, bytes) {
    /** Bytes of one code. */
    this.bytes = bytes;
    /** Whether latents have unit norm: their dot product is then the cosine. */
    this.cosine = stored.metric === "cosine";
    const mean = float32(stored.mean);
    /** Numbers of one latent. */
    this.width = mean.length;
    const {residual} = stored;
    if (residual) {
      this.#open(residual, stored.trellis);
    } else {
      this.stages = 0;
      this.trellis = new Trellis(stored.trellis, float32(stored.importance), bytes);
      this.mean = mean;
      this.spread = float32(stored.spread);
    }
  }

  #open(residual, trellis) {
    const {width, bytes} = this;
    const alone = bytes <= residual.whole;
    this.stages = alone ? bytes : residual.stages;
    if (!(bytes >= 4)) throw new Error(`expected 4 bytes or more, got ${bytes}`);
    this.books = float16(residual.books).slice(0, this.stages * CENTROIDS * width);
    this.axes = new Float32Array(0);
    this.offset = new Float32Array(width);
    if (!alone) {
      this.trellis = new Trellis(trellis, float32(residual.importance), bytes - this.stages);
      const [mean, spread, axes] = [float32(residual.mean), float32(residual.spread), float16(residual.axes)];
      for (let i = 0; i < width; i++) addScaled(this.offset, 0, mean[i], axes, i * width, width);
      this.axes = axes.map((value, at) => spread[Math.floor(at / width)] * value);
    }
    const fitted = residual.decoders.find((each) => each.least <= bytes && bytes <= each.most);
    if (!fitted) return;
    const share = fround(min(1, fitted.full / bytes) ** FADING);
    this.books = towards(this.books, float16(fitted.books), share);
    this.axes = towards(this.axes, float16(fitted.axes), share);
    this.offset = towards(this.offset, float32(fitted.offset), share);
  }

  /**
   * Decode codes to latents.
   * @param {Uint8Array} codes n codes, one after the other
   * @returns {Float32Array} n latents of `width` numbers; of unit norm under cosine
   * @throws {Error} the length is not a multiple of `bytes`
   */
  decode(codes) {
    const {bytes, width, stages, trellis} = this;
    const rows = codes.length / bytes;
    if (!Number.isInteger(rows)) throw new Error(`expected codes of ${bytes} bytes each, got ${codes.length} bytes`);
    const latents = new Float32Array(rows * width);
    for (let row = 0; row < rows; row++) {
      const [from, to] = [row * bytes, row * width];
      if (this.books) this.#stages(codes, from, latents, to);
      else this.#plain(codes, from, latents, to);
      if (this.cosine) normalise(latents, to, width);
    }
    return latents;
  }

  #stages(codes, from, latents, to) {
    const {width, stages, trellis, books, axes} = this;
    latents.set(this.offset, to);
    for (let stage = 0; stage < stages; stage++) {
      const centroid = (stage * CENTROIDS + codes[from + stage]) * width;
      for (let j = 0; j < width; j++) latents[to + j] += books[centroid + j];
    }
    for (let t = 0; t < (trellis?.order.length ?? 0); t++) {
      addScaled(latents, to, trellis.level(codes, from + stages, t), axes, trellis.order[t] * width, width);
    }
  }

  #plain(codes, from, latents, to) {
    const {trellis, mean, spread} = this;
    latents.set(mean, to);
    trellis.order.forEach((dimension, t) => {
      latents[to + dimension] = mean[dimension] + fround(spread[dimension] * trellis.level(codes, from, t));
    });
  }
}

// The bit-shift trellis: which bits of a code are the state of each step, and what level it stands for.
class Trellis {
  constructor({memory, levels, distortion}, importance, bytes) {
    const most = float32(distortion);
    const largest = Math.floor((importance.length * most.length) / 8);
    if (!(bytes >= 1 && bytes <= largest)) throw new Error(`expected 1 to ${largest} bytes of trellis code, got ${bytes}`);
    const bits = allocate(importance, most, 8 * bytes);
    this.bytes = bytes;
    this.memory = memory;
    this.levels = float16(levels);
    this.order = [...bits.keys()].filter((i) => bits[i]).sort((a, b) => bits[a] - bits[b] || a - b);
    let end = 0;
    this.starts = this.order.map((i) => ((end += bits[i]) - memory + 8 * bytes) % (8 * bytes));
    this.tables = this.order.map((i) => (bits[i] - 1) << memory);
  }

  level(codes, from, t) {
    const {bytes, memory, starts} = this;
    const first = starts[t] >> 3;
    const word = (codes[from + first] << 16) | (codes[from + ((first + 1) % bytes)] << 8) | codes[from + ((first + 2) % bytes)];
    return this.levels[this.tables[t] + ((word >> (24 - memory - (starts[t] & 7))) & ((1 << memory) - 1))];
  }
}

// The largest gains are granted; of equal ones the lower dimension's, then the lower bit's.
function allocate(importance, distortion, total) {
  const count = distortion.length;
  const gains = new Float32Array(importance.length * count);
  for (let at = 0; at < gains.length; at++) {
    const rate = at % count;
    gains[at] = importance[(at - rate) / count] * fround((rate ? distortion[rate - 1] : 1) - distortion[rate]);
  }
  const bits = new Int32Array(importance.length);
  const granted = [...gains.keys()].sort((a, b) => gains[b] - gains[a] || a - b).slice(0, total);
  for (const at of granted) bits[Math.floor(at / count)]++;
  return bits;
}

// Every sum and product below is rounded to float32, as Python rounds it.
function addScaled(sums, to, scale, values, from, count) {
  for (let j = 0; j < count; j++) sums[to + j] += fround(scale * values[from + j]);
}

function towards(plain, fitted, share) {
  if (share === 1) return fitted;
  return plain.map((value, at) => value + fround(share * fround(fitted[at] - value)));
}

function normalise(rows, from, width) {
  let squares = 0;
  for (let j = 0; j < width; j++) squares += rows[from + j] ** 2;
  const norm = fround(sqrt(squares));
  for (let j = 0; norm > 0 && j < width; j++) rows[from + j] /= norm;
}

// The fields of a protobuf message that hold bytes; the others are passed over.
function* fields(message) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (at >= message.length || scale > 2 ** 63) throw new Error("expected a codec file of vaecodec, got something else");
      const byte = message[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const tag = number();
    const kind = tag % 8;
    if (kind === 0) number();
    else if (kind === 1 || kind === 5) at += kind === 1 ? 8 : 4;
    else if (kind === 2) {
      const size = number();
      yield [Math.floor(tag / 8), message.subarray(at, (at += size))];
    } else throw new Error("expected a codec file of vaecodec, got something else");
  }
}

function text(bytes) {
  return new TextDecoder().decode(bytes);
}

function base64(encoded) {
  const binary = atob(encoded);
  return new DataView(Uint8Array.from(binary, (letter) => letter.charCodeAt(0)).buffer);
}

function float32(encoded) {
  const view = base64(encoded);
  return Float32Array.from({length: view.byteLength / 4}, (_, i) => view.getFloat32(4 * i, true));
}

function float16(encoded) {
  const view = base64(encoded);
  const values = new Float32Array(view.byteLength / 2);
  for (let i = 0; i < values.length; i++) {
    const half = view.getUint16(2 * i, true);
    const [exponent, fraction] = [(half >> 10) & 31, half & 1023];
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction / 2 ** 24;
    values[i] = half & 0x8000 ? -size : size;
  }
  return values;
}
