import type { MemberConfig, Members } from "./etcd_members.ts";
export class ContainerMembers {
  static create(_configs: MemberConfig[]): Promise<Members> {
    return Promise.reject(new Error("containers are not provided yet"));
  }
}
