// etcd members as containers, through testcontainers.
//
// The containers use the host's network: members reach each other and tests reach them at 127.0.0.1, on the same free
// ports as local processes would, and it works with a daemon that has neither bridge nor iptables. A member's data is in
// its container's own layer, so it outlives a kill and goes with the container. testcontainers creates and removes;
// killing and pausing go to the daemon directly, since testcontainers has no call for them.

import type { StartedTestContainer } from "testcontainers";
import {
  containerLog,
  dockerApi,
  etcdImage,
  OWNER_LABEL,
  ownerLabel,
  prepareTestcontainers,
  removeOrphans,
} from "./docker.ts";
import { type MemberConfig, type Members, Watchdog } from "./etcd_members.ts";

export class ContainerMembers implements Members {
  readonly #containers: (StartedTestContainer | undefined)[];
  #disposing: Promise<void> | undefined;

  private constructor(
    private readonly configs: MemberConfig[],
    private readonly image: string,
    private readonly watchdog: Watchdog,
  ) {
    this.#containers = configs.map(() => undefined);
  }

  static async create(configs: MemberConfig[]): Promise<ContainerMembers> {
    await prepareTestcontainers();
    await removeOrphans();
    const image = await etcdImage();
    // Works where there is a docker program; else the next run's removeOrphans does it.
    return new ContainerMembers(configs, image, new Watchdog("", ["docker", "rm", "-f", "-v"]));
  }

  async start(member: number): Promise<void> {
    const container = this.#containers[member];
    if (container) {
      await dockerApi("POST", `/containers/${container.getId()}/start`);
      return;
    }
    // Loaded here, because it is large and only this provider needs it.
    const { GenericContainer } = await import("testcontainers");
    this.#containers[member] = await new GenericContainer(this.image)
      .withNetworkMode("host")
      .withLabels({ [OWNER_LABEL]: ownerLabel() })
      .withCommand(["etcd", "--data-dir=/etcd-data", ...this.configs[member].args])
      .start();
    await this.watchdog.set(this.#containers.flatMap((started) => started ? [started.getId()] : []));
  }

  #id(member: number): string {
    const container = this.#containers[member];
    if (!container) throw new Error(`member ${member} has no container`);
    return container.getId();
  }

  async kill(member: number): Promise<void> {
    const id = this.#id(member);
    // 409: it does not run.
    await dockerApi("POST", `/containers/${id}/kill?signal=SIGKILL`).catch((error: Error) => {
      if (!error.message.includes(": 409 ")) throw error;
    });
    await dockerApi("POST", `/containers/${id}/wait?condition=not-running`);
  }

  async pause(member: number): Promise<void> {
    await dockerApi("POST", `/containers/${this.#id(member)}/pause`);
  }

  async resume(member: number): Promise<void> {
    await dockerApi("POST", `/containers/${this.#id(member)}/unpause`);
  }

  async exited(member: number): Promise<string | null> {
    const { State } = JSON.parse((await dockerApi("GET", `/containers/${this.#id(member)}/json`)).toString());
    return State.Running ? null : `exit code ${State.ExitCode} ${State.Error}`.trim();
  }

  async log(member: number): Promise<string> {
    return await containerLog(this.#id(member));
  }

  async etcdctl(member: number, args: string[]): Promise<string> {
    const container = this.#containers[member]!;
    const { exitCode, stdout, stderr } = await container.exec(["etcdctl", ...args], {
      env: { ETCDCTL_API: "3" },
    });
    if (exitCode === 0) return stdout;
    throw new Error(`etcdctl ${args.join(" ")} failed (${exitCode}): ${stderr.trim() || stdout.trim()}`);
  }

  dispose(): Promise<void> {
    this.#disposing ??= (async () => {
      const ends = await Promise.allSettled(this.#containers.map(async (container, member) => {
        if (!container) return;
        // At once: a stop would first ask politely, and a paused member cannot hear.
        await this.kill(member);
        await container.stop({ remove: true, removeVolumes: true });
      }));
      // Removes what is left, if anything is.
      await this.watchdog.finish();
      const failed = ends.find((end) => end.status === "rejected");
      if (failed) throw failed.reason;
    })();
    return this.#disposing;
  }
}
