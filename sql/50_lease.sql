-- Leases, locks and elections. What a session holds is kept alive by the proxy and ends with the session.

CREATE FUNCTION @extschema@.etcd_lease_grant(
    server text, ttl interval, keep boolean DEFAULT false, id bigint DEFAULT NULL)
  RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_lease_grant(text, interval, boolean, bigint) IS
  'Grants a lease of that length, in whole seconds, and answers its id. With keep it is kept alive as long as this session lives, as by etcd_lease_keep(); with id it gets that id.';

CREATE FUNCTION @extschema@.etcd_lease_revoke(server text, lease bigint)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_lease_revoke(text, bigint) IS
  'Ends a lease and deletes its keys at once; false when there is no such lease.';

CREATE FUNCTION @extschema@.etcd_lease_ttl(server text, lease bigint)
  RETURNS interval
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_lease_ttl(text, bigint) IS
  'What is left of a lease; NULL when there is no such lease.';

CREATE FUNCTION @extschema@.etcd_lease_keys(server text, lease bigint)
  RETURNS TABLE(ttl interval, granted interval, key text)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_lease_keys(text, bigint) IS
  'The keys of a lease, with what is left of it and what was granted; one row with a NULL key when it has none, no row when there is no such lease.';

CREATE FUNCTION @extschema@.etcd_lease_keepalive(server text, lease bigint)
  RETURNS interval
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_lease_keepalive(text, bigint) IS
  'Renews a lease once, to its granted length, which is the answer; NULL when there is no such lease.';

CREATE FUNCTION @extschema@.etcd_lease_keep(server text, lease bigint)
  RETURNS interval
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_lease_keep(text, bigint) IS
  'Keeps a lease alive as long as this session lives or until etcd_lease_release(); the granted length. After that it runs out by itself.';

CREATE FUNCTION @extschema@.etcd_lease_release(server text, lease bigint)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_lease_release(text, bigint) IS
  'Stops keeping a lease alive; false when this session did not.';

CREATE FUNCTION @extschema@.etcd_leases(server text)
  RETURNS SETOF bigint
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_leases(text) IS
  'The ids of all leases.';

CREATE FUNCTION @extschema@.etcd_lock(server text, name text, ttl interval DEFAULT '60 s', wait interval DEFAULT NULL)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_lock(text, text, interval, interval) IS
  'Takes the lock of that name, as etcdctl lock does, and waits for it as long as wait says, without as long as it takes; false when others had it until then. It is held until etcd_unlock() or the end of the session, not of the transaction; ttl is how long others wait should this server vanish, whether it has the lock or waits for it. A session may take its own lock again, and gives it back as often.';

CREATE FUNCTION @extschema@.etcd_try_lock(server text, name text, ttl interval DEFAULT '60 s')
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_try_lock(text, text, interval) IS
  'Takes the lock of that name if nobody has it or waits for it; false otherwise.';

CREATE FUNCTION @extschema@.etcd_unlock(server text, name text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_unlock(text, text) IS
  'Gives a lock back; false, with a warning, when this session does not hold it or has lost it. When etcd cannot be told, an error of class 08 says so; the lock then ends as soon as it is told, or with its lease.';

CREATE FUNCTION @extschema@.etcd_campaign(
    server text, name text, value text, ttl interval DEFAULT '60 s', wait interval DEFAULT NULL)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_campaign(text, text, text, interval, interval) IS
  'Runs for leader of the election of that name, as etcdctl elect does, and waits to be elected as long as wait says, without as long as it takes; false when another was the leader until then. The leader''s value is what others see. Leadership lasts until etcd_resign() or the end of the session. For a leader it is etcd_proclaim().';

CREATE FUNCTION @extschema@.etcd_proclaim(server text, name text, value text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_proclaim(text, text, text) IS
  'Gives the leadership that this session holds another value; false when it holds none.';

CREATE FUNCTION @extschema@.etcd_resign(server text, name text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_resign(text, text) IS
  'Gives a leadership up; false when this session does not hold it.';

CREATE FUNCTION @extschema@.etcd_leader(server text, name text)
  RETURNS SETOF @extschema@.etcd_row
  LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_leader(text, text) IS
  'The leader of an election: its key, with its value; no row when there is none.';

CREATE FUNCTION @extschema@.etcd_observe(
    server text, name text, after_revision bigint DEFAULT 0, wait interval DEFAULT NULL)
  RETURNS SETOF @extschema@.etcd_row
  LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_observe(text, text, bigint, interval) IS
  'Waits for a leader that is another one than at a revision, or has another value, as long as wait says; no row when none came. With the mod_revision of the last row it shows one leader after the other.';

CREATE FUNCTION @extschema@.etcd_held(server text)
  RETURNS TABLE(kind text, name text, key text, lease bigint, ttl interval, lost boolean)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_held(text) IS
  'What this session holds: leases that are kept alive, locks, leaderships. lost says that it has ended all the same: of a lock or a leadership as soon as its key is gone, of a lease alone when etcd refuses to renew it, after a third of its ttl at most, and of all when etcd could not be reached for that ttl.';

