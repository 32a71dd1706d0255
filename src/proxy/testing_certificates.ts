// An authority and certificates of its own for a test, made with openssl, which Debian's PostgreSQL brings along.

export interface Pair {
  /** Paths of files in PEM format. */
  cert: string;
  key: string;
}

async function openssl(...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command("openssl", { args, stdout: "null", stderr: "piped" })
    .output();
  if (!success) throw new Error(`openssl ${args[0]} failed: ${new TextDecoder().decode(stderr)}`);
}

export class TestAuthority {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  static async create(): Promise<TestAuthority> {
    const authority = new TestAuthority(await Deno.makeTempDir({ prefix: "etcd_fdw_ca_" }));
    // Readable for a PostgreSQL that runs as another user.
    await Deno.chmod(authority.#directory, 0o755);
    const { cert, key } = authority.#files("ca");
    await openssl(
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"],
      ...["-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=test authority"],
      ...["-addext", "basicConstraints=critical,CA:TRUE"],
    );
    return authority;
  }

  /** The authority's own certificate. */
  get ca(): string {
    return this.#files("ca").cert;
  }

  /** A certificate for these names, as in "DNS:localhost,IP:127.0.0.1". */
  async issue(name: string, altNames: string): Promise<Pair> {
    const { cert, key } = this.#files(name);
    const [request, extensions] = [`${cert}.csr`, `${cert}.ext`];
    await Deno.writeTextFile(
      extensions,
      `subjectAltName=${altNames}\nextendedKeyUsage=serverAuth,clientAuth\n`,
    );
    await openssl(
      ...["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"],
      ...["-keyout", key, "-out", request, "-subj", `/CN=${name}`],
    );
    const authority = this.#files("ca");
    await openssl(
      ...["x509", "-req", "-in", request, "-CA", authority.cert, "-CAkey", authority.key, "-CAcreateserial"],
      ...["-out", cert, "-days", "2", "-extfile", extensions],
    );
    await Deno.chmod(key, 0o644);
    return { cert, key };
  }

  #files(name: string): Pair {
    return { cert: `${this.#directory}/${name}.pem`, key: `${this.#directory}/${name}.key` };
  }

  async remove(): Promise<void> {
    await Deno.remove(this.#directory, { recursive: true });
  }
}
