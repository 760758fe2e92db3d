// Steps of Restate that do nothing: a service with a handler, which the server of 127.0.0.1 calls.
// It listens at the port of the first argument. Each answer has when the steps began and ended, in milliseconds.

import * as restate from "@restatedev/restate-sdk";

const steps = restate.service({
  name: "steps",
  handlers: {
    record: async (context, count) => {
      const began = await context.run("began", () => performance.timeOrigin + performance.now());
      for (let number = 0; number < count; number += 1) await context.run("nothing", () => number);
      const ended = await context.run("ended", () => performance.timeOrigin + performance.now());
      return [began, ended];
    },
  },
});

await restate.serve({ services: [steps], port: Number(process.argv[2]) });
