import { Etcd3 } from "etcd3";
const c = new Etcd3({ hosts: Deno.args[0] });
console.log(await c.maintenance.status());
c.close();
