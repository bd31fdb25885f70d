// Name what is in a picture, in JavaScript: node predict.mjs model.onnx width height < pixels.rgb
// The pixels are 8-bit RGB, row by row; in a browser they come from a canvas, without the alpha channel.
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const [model, width, height] = process.argv.slice(2);
const { names } = JSON.parse(readFileSync(`${model}.json`, "utf8")); // the report that lies beside the model
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(model), { logSeverityLevel: 3 });
const images = new ort.Tensor("uint8", new Uint8Array(readFileSync(0)), [1, Number(height), Number(width), 3]);
const found = await session.run({ images }); // inputs with a default, like "hedge", cannot be set from JavaScript

const path = [...found.path.data].filter((node) => node >= 0);
const node = found.hedge_node.data[0];
console.log(
  JSON.stringify({
    answer: node < 0 ? null : names[node],
    probability: found.hedge_prob.data[0],
    path: path.map((n) => names[n]),
    topk: [...found.topk_index.data].map((n) => names[n]),
  }),
);
