// scripts/sandbox: a throwaway PostgreSQL + etcd.

import { main, StepError } from "../../build/run.ts";
import { type Engine, Sandbox } from "./sandbox.ts";

const USAGE = `usage: scripts/sandbox up [--engine embedded|plv8] [--pg-config PATH] [--name N]
       scripts/sandbox down [--name N]
       scripts/sandbox env [--name N]      exports for a shell: eval "$(scripts/sandbox env)"
       scripts/sandbox psql [--name N] [ARGUMENT...]`;

/** Takes \`--name value\` out of the arguments. */
function option(args: string[], name: string): string | undefined {
  const at = args.indexOf(name);
  if (at < 0) return undefined;
  const [, value] = args.splice(at, 2);
  if (value === undefined) throw new StepError(`${name} needs a value\n${USAGE}`);
  return value;
}

async function existing(name: string | undefined): Promise<Sandbox> {
  const sandbox = await Sandbox.find(name);
  if (sandbox === null) throw new StepError("there is no such sandbox: scripts/sandbox up makes it");
  return sandbox;
}

const quote = (value: string) => `'${value.replaceAll("'", "'\\''")}'`;

await main(async () => {
  const [verb, ...args] = Deno.args;
  const name = option(args, "--name");
  switch (verb) {
    case "up": {
      const engine = option(args, "--engine");
      if (engine !== undefined && engine !== "embedded" && engine !== "plv8") {
        throw new StepError(`unknown engine "${engine}"`);
      }
      const sandbox = await Sandbox.up({
        name,
        engine: engine as Engine,
        pgConfig: option(args, "--pg-config"),
      });
      await sandbox.createServer();
      console.log(
        `up in ${sandbox.folder}: PostgreSQL on port ${sandbox.env().PGPORT}, etcd on ${sandbox.endpoint}`,
      );
      return;
    }
    case "down":
      await (await Sandbox.find(name))?.down();
      return;
    case "env":
      for (const [key, value] of Object.entries((await existing(name)).env())) {
        console.log(`export ${key}=${quote(value)}`);
      }
      return;
    case "psql": {
      const sandbox = await existing(name);
      await sandbox.start();
      Deno.exit(await sandbox.psql(args));
      break;
    }
    default:
      console.log(USAGE);
      Deno.exit(verb === "--help" ? 0 : 2);
  }
});
