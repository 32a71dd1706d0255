-- The cluster and its upkeep. Members are named in hexadecimal, as etcdctl prints them. What changes the cluster is for
-- superusers until it is granted.

CREATE FUNCTION @extschema@.etcd_status(server text, endpoints text[] DEFAULT NULL)
  RETURNS TABLE(endpoint text, member_id text, version text, is_leader boolean, is_learner boolean, db_size bigint,
    db_size_in_use bigint, revision bigint, raft_term bigint, raft_index bigint, raft_applied_index bigint, errors text[],
    error text)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_status(text, text[]) IS
  'The state of every endpoint of the server, or of those that are named; sizes in bytes. An endpoint that does not answer has a row that says why in error.';

CREATE FUNCTION @extschema@.etcd_version(server text)
  RETURNS text
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_version(text) IS
  'The version of etcd at the endpoint in use.';

CREATE FUNCTION @extschema@.etcd_members(server text)
  RETURNS TABLE(member_id text, name text, peer_urls text[], client_urls text[], is_learner boolean)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_members(text) IS
  'The members of the cluster.';

CREATE FUNCTION @extschema@.etcd_member_add(server text, peer_urls text[], learner boolean DEFAULT false)
  RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_member_add(text, text[], boolean) IS
  'Adds a member and answers its id; it can be started then.';
REVOKE ALL ON FUNCTION @extschema@.etcd_member_add(text, text[], boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_member_remove(server text, member_id text)
  RETURNS TABLE(id text, name text, peer_urls text[], client_urls text[], is_learner boolean)
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_member_remove(text, text) IS
  'Removes a member; the members that there are then.';
REVOKE ALL ON FUNCTION @extschema@.etcd_member_remove(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_member_promote(server text, member_id text)
  RETURNS TABLE(id text, name text, peer_urls text[], client_urls text[], is_learner boolean)
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_member_promote(text, text) IS
  'Makes a learner a voting member; the members that there are then.';
REVOKE ALL ON FUNCTION @extschema@.etcd_member_promote(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_member_update(server text, member_id text, urls text[])
  RETURNS TABLE(id text, name text, peer_urls text[], client_urls text[], is_learner boolean)
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_member_update(text, text, text[]) IS
  'Changes the peer URLs of a member; the members that there are then.';
REVOKE ALL ON FUNCTION @extschema@.etcd_member_update(text, text, text[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_move_leader(server text, member_id text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_move_leader(text, text) IS
  'Makes another member the leader. One of the server''s endpoints must be the present leader.';
REVOKE ALL ON FUNCTION @extschema@.etcd_move_leader(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_alarms(server text)
  RETURNS TABLE(member_id text, alarm text)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_alarms(text) IS
  'Alarms that are active: NOSPACE or CORRUPT.';

CREATE FUNCTION @extschema@.etcd_alarm_disarm(server text)
  RETURNS TABLE(member_id text, alarm text)
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_alarm_disarm(text) IS
  'Disarms all alarms; those that were active.';
REVOKE ALL ON FUNCTION @extschema@.etcd_alarm_disarm(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_compact(server text, revision bigint, physical boolean DEFAULT false)
  RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_compact(text, bigint, boolean) IS
  'Takes the history before a revision away and answers the present revision; with physical it waits until the space is free for use.';
REVOKE ALL ON FUNCTION @extschema@.etcd_compact(text, bigint, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_defragment(server text, endpoints text[] DEFAULT NULL)
  RETURNS TABLE(endpoint text, error text)
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_defragment(text, text[]) IS
  'Gives unused space of every endpoint, or of those that are named, back to the file system, one after the other; each stops answering meanwhile.';
REVOKE ALL ON FUNCTION @extschema@.etcd_defragment(text, text[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_hash(server text, revision bigint DEFAULT NULL, endpoints text[] DEFAULT NULL)
  RETURNS TABLE(endpoint text, hash bigint, compact_revision bigint, current_revision bigint, error text)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_hash(text, bigint, text[]) IS
  'A hash over all keys and versions up to a revision, of every endpoint or of those that are named: members that agree have the same.';

CREATE FUNCTION @extschema@.etcd_snapshot(server text, path text)
  RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_snapshot';
COMMENT ON FUNCTION @extschema@.etcd_snapshot(text, text) IS
  'Writes a snapshot of etcd''s database to a file of the PostgreSQL server, for etcdctl snapshot restore; its bytes. Needs the role pg_write_server_files.';
REVOKE ALL ON FUNCTION @extschema@.etcd_snapshot(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_snapshot_chunks(server text)
  RETURNS TABLE("position" bigint, data bytea)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_snapshot_chunks(text) IS
  'A snapshot of etcd''s database in pieces of about a megabyte, in their order.';
REVOKE ALL ON FUNCTION @extschema@.etcd_snapshot_chunks(text) FROM PUBLIC;

