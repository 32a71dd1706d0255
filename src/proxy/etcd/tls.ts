// Credentials of a connection: none, or TLS with what the server's options say.
//
// The name in etcd's certificate is checked against the endpoint's host, or against ssl_servername. An IP address cannot
// be asked for by name in TLS (SNI holds host names only), so a placeholder is asked for and the address checked here.

import { Buffer } from "node:buffer";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import * as grpc from "@grpc/grpc-js";
import { EtcdFdwError } from "../../base/errors.ts";
import type { TlsPayload } from "../../ipc/frame.ts";

/** In front of the port; an IPv6 address without its brackets. */
export function hostOf(endpoint: string): string {
  return endpoint.slice(0, endpoint.lastIndexOf(":")).replace(/^\[|\]$/g, "");
}

export const portOf = (endpoint: string) => Number(endpoint.slice(endpoint.lastIndexOf(":") + 1));

/** The name to ask for in TLS. */
export const sniOf = (name: string) => isIP(name) === 0 ? name : "etcd.invalid";

/** What a channel needs for this endpoint: credentials, and options that go with them. */
export function securityOf(
  endpoint: string,
  tls: TlsPayload | undefined,
): { credentials: grpc.ChannelCredentials; options: grpc.ChannelOptions } {
  if (tls === undefined) return { credentials: grpc.credentials.createInsecure(), options: {} };
  const buffer = (pem: string | undefined) => pem === undefined ? null : Buffer.from(pem);
  const name = tls.servername ?? hostOf(endpoint);
  const credentials = grpc.credentials.createSsl(
    buffer(tls.ca),
    buffer(tls.key ?? tls.cert),
    buffer(tls.cert),
    {
      rejectUnauthorized: tls.verify,
      checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
        tls.verify ? checkServerIdentity(name, certificate) : undefined,
    },
  );
  return { credentials, options: { "grpc.ssl_target_name_override": sniOf(name) } };
}

function wrong(option: string, what: string): never {
  throw new EtcdFdwError("22023", `the file of option "${option}" holds no ${what} in PEM format`, {
    hint: "Name a file that begins with -----BEGIN, as etcdctl takes it.",
  });
}

function certificateOf(option: string, pem: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch {
    return wrong(option, "certificate");
  }
}

/** Throws EtcdFdwError 22023 for a file that is not what its option needs; its contents are not quoted. */
export function checkTls({ ca, cert, key }: TlsPayload): void {
  if (ca !== undefined) certificateOf("cafile", ca);
  if (cert === undefined) return;
  const certificate = certificateOf("certfile", cert);
  const privateKey = (() => {
    try {
      return createPrivateKey(key ?? cert);
    } catch {
      return wrong(key === undefined ? "certfile" : "keyfile", "private key");
    }
  })();
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new EtcdFdwError(
      "22023",
      'the private key of option "keyfile" does not belong to the certificate',
      {
        hint: "keyfile and certfile are the two halves of one pair.",
      },
    );
  }
}
