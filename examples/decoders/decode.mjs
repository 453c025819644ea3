// Decode a file of codes: node decode.mjs codec.onnx 32 < codes > latents
// Codes lie one after the other; latents are written as little-endian float32.
import {readFileSync, writeSync} from "node:fs";

import {openCode} from "./vaecodec.mjs";

const [file, bytes] = process.argv.slice(2);
const latents = openCode(readFileSync(file), Number(bytes)).decode(readFileSync(0));
const output = Buffer.from(latents.buffer);
for (let at = 0; at < output.length; ) at += writeSync(1, output, at);
