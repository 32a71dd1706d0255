// The certificates of a server: what its endpoints show, and what its options name. For monitoring, so that a certificate
// is shown even when it has expired or is not trusted.

import { Buffer } from "node:buffer";
import { X509Certificate } from "node:crypto";
import { connect, type DetailedPeerCertificate } from "node:tls";
import type { TlsPayload } from "../../ipc/frame.ts";
import type { CertificateInfo } from "../handle.ts";
import { hostOf, portOf, sniOf } from "./tls.ts";
import type { Transport } from "./transport.ts";

const PEM = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** One line, as openssl and psql show a name. */
const oneLine = (name: string) => name.split("\n").join(", ");

function infoOf(source: string, endpoint: string, certificate: X509Certificate): CertificateInfo {
  return {
    ...{ source, endpoint, subject: oneLine(certificate.subject), issuer: oneLine(certificate.issuer) },
    notBefore: Date.parse(certificate.validFrom),
    notAfter: Date.parse(certificate.validTo),
  };
}

function inFile(source: string, pem: string | undefined): CertificateInfo[] {
  return (pem?.match(PEM) ?? []).map((one) => infoOf(source, "", new X509Certificate(one)));
}

/** As Transport.certificates. */
export function certificatesShownBy(
  endpoint: string,
  tls: TlsPayload,
  timeoutMs: number,
): Promise<CertificateInfo[]> {
  const host = hostOf(endpoint);
  return new Promise((resolve) => {
    const buffer = (pem: string | undefined) => pem === undefined ? undefined : Buffer.from(pem);
    const socket = connect({
      ...{ host, port: portOf(endpoint), ALPNProtocols: ["h2"] },
      ...{ servername: sniOf(tls.servername ?? host), rejectUnauthorized: false },
      ...{ ca: buffer(tls.ca), cert: buffer(tls.cert), key: buffer(tls.key ?? tls.cert) },
    });
    const end = (found: CertificateInfo[]) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(found);
    };
    const timer = setTimeout(() => end([]), timeoutMs);
    socket.on("error", () => end([]));
    socket.on("secureConnect", () => end(chainOf(endpoint, socket.getPeerCertificate(true))));
  });
}

function chainOf(endpoint: string, first: DetailedPeerCertificate): CertificateInfo[] {
  const chain: CertificateInfo[] = [];
  const seen = new Set<string>();
  for (let one = first; one?.raw !== undefined; one = one.issuerCertificate) {
    const certificate = new X509Certificate(one.raw);
    if (seen.has(certificate.fingerprint256)) break;
    seen.add(certificate.fingerprint256);
    chain.push(infoOf(chain.length === 0 ? "peer" : "peer-chain", endpoint, certificate));
  }
  return chain;
}

/** All of them; none without TLS. Endpoints that cannot be reached within the timeout are left out. */
export async function certificatesOf(
  transport: Transport,
  endpoints: readonly string[],
  tls: TlsPayload | undefined,
  timeoutMs: number,
): Promise<CertificateInfo[]> {
  if (tls === undefined) return [];
  const shown = await Promise.all(
    endpoints.map((endpoint) => transport.certificates(endpoint, tls, timeoutMs)),
  );
  return [...shown.flat(), ...inFile("cafile", tls.ca), ...inFile("certfile", tls.cert)];
}
