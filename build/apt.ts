// Debian packages: installed when root or sudo is at hand, or fetched from another release without being installed.

import { OUT } from "./paths.ts";
import { exists, run, StepError, which } from "./run.ts";

let updated = false;

async function asRoot(): Promise<string[] | null> {
  if (Deno.uid() === 0) return [];
  const sudo = await run("sudo", ["-n", "true"], { mayFail: true });
  return sudo.code === 0 ? ["sudo", "-n"] : null;
}

/**
 * Installs Debian packages without starting any service: the servers that come with them must not touch this machine's
 * ports. Throws StepError with the command to type when that cannot be done from here.
 */
export async function aptInstall(packages: string[], why: string): Promise<void> {
  const prefix = await asRoot();
  if (prefix === null || await which("apt-get") === null) {
    throw new StepError(`${why} is missing; install it first: sudo apt-get install ${packages.join(" ")}`);
  }
  console.log(`installing ${packages.join(" ")} (${why})`);
  // postgresql-common makes and starts a cluster for each new server package unless this says otherwise; services are
  // started through invoke-rc.d, which a policy of exit code 101 forbids for the time of the call.
  const policy = "/usr/sbin/policy-rc.d";
  const hadPolicy = await exists(policy);
  const shell = async (command: string) => {
    const [program, ...args] = [...prefix, "sh", "-c", command];
    return await run(program, args);
  };
  if (!updated) await shell("apt-get update -q");
  updated = true;
  if (!hadPolicy) await shell(`printf '#!/bin/sh\\nexit 101\\n' > ${policy} && chmod 755 ${policy}`);
  try {
    await shell(
      `DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends ${packages.join(" ")}`,
    );
  } finally {
    if (!hadPolicy) await shell(`rm -f ${policy}`);
  }
}

/** Makes sure that a program is there, from one of these packages. */
export async function ensureProgram(program: string, packages: string[]): Promise<void> {
  if (await which(program) === null) await aptInstall(packages, program);
}

/** The address of the Debian archive that this machine uses for its own release. Pure part of {@linkcode Release}. */
export function archiveSite(indexTargets: string): string | null {
  for (const row of indexTargets.split("\n")) {
    const [site, release, component, createdBy, origin] = row.split("|");
    if (origin === "Debian" && component === "main" && createdBy === "Packages" && !/[-/]/.test(release)) {
      return site;
    }
  }
  return null;
}

/** Another Debian release, read through a sources list and folders of the build's own; nothing of the system changes. */
export class Release {
  readonly #directory: string;

  private constructor(readonly name: string, readonly mayBeOld: boolean) {
    this.#directory = `${OUT}/apt/${name}`;
  }

  /**
   * Opens a release; null when this machine has no Debian archive or no archive keys, or apt fails, which is said.
   *
   * @param mayBeOld Take a mirror's copy of unstable whose week of validity is over. The signature is checked all the same;
   * what is lost is the proof that the copy is not an old one, so not for anything that is to be run.
   */
  static async open(name: string, mayBeOld = false): Promise<Release | null> {
    const format = "$(SITE)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)|$(ORIGIN)";
    const indexes = async () =>
      archiveSite((await run("apt-get", ["indextargets", "--format", format], { mayFail: true })).stdout);
    const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let site = await indexes();
    if (site === null && Deno.uid() === 0) {
      // A machine whose lists were never fetched knows its sources, but not their origin.
      await run("apt-get", ["update", "-q"], { mayFail: true });
      site = await indexes();
    }
    if (site === null || !(await exists(keyring))) return null;
    const release = new Release(name, mayBeOld);
    await Deno.mkdir(`${release.#directory}/lists/partial`, { recursive: true });
    await Deno.mkdir(`${release.#directory}/cache/archives/partial`, { recursive: true });
    const line = `[signed-by=${keyring}] ${site} ${name} main\n`;
    await Deno.writeTextFile(`${release.#directory}/sources.list`, `deb ${line}deb-src ${line}`);
    const { code, stderr } = await release.#apt("apt-get", ["update", "-q"]);
    if (code === 0) return release;
    console.error(`the package lists of Debian ${name} could not be fetched: ${stderr.trim()}`);
    return null;
  }

  #apt(program: string, args: string[], cwd?: string) {
    const d = this.#directory;
    const options = [
      `Dir::Etc::sourcelist=${d}/sources.list`,
      "Dir::Etc::sourceparts=/dev/null",
      `Dir::State::lists=${d}/lists`,
      `Dir::Cache=${d}/cache`,
      // What is installed here is no candidate there.
      "Dir::State::status=/dev/null",
      "APT::Sandbox::User=root",
      ...(this.mayBeOld ? ["Acquire::Check-Valid-Until=false"] : []),
    ].flatMap((option) => ["-o", option]);
    return run(program, [...options, ...args], { cwd, mayFail: true });
  }

  /** Downloads a source package into a folder and names its upstream tar files; null when the release has none. */
  async source(name: string, into: string): Promise<string[] | null> {
    await Deno.mkdir(into, { recursive: true });
    const { code } = await this.#apt("apt-get", ["source", "--download-only", "-q", name], into);
    if (code !== 0) return null;
    const tars: string[] = [];
    for await (const entry of Deno.readDir(into)) {
      if (/\.orig\.tar\./.test(entry.name)) tars.push(`${into}/${entry.name}`);
    }
    return tars;
  }

  /** Unpacks a binary package's files under a folder; false when the release has no such package. */
  async unpack(name: string, into: string): Promise<boolean> {
    const downloads = `${into}/.deb`;
    await Deno.mkdir(downloads, { recursive: true });
    const { code } = await this.#apt("apt-get", ["download", "-q", name], downloads);
    if (code !== 0) return false;
    for await (const entry of Deno.readDir(downloads)) {
      if (entry.name.startsWith(`${name}_`)) {
        await run("dpkg-deb", ["-x", `${downloads}/${entry.name}`, into]);
      }
    }
    return true;
  }
}
