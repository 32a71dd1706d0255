-- Subscriptions and mirrors: what follows etcd by itself.

CREATE FUNCTION @extschema@.etcd_fdw_home() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'etcd_fdw_home';
COMMENT ON FUNCTION @extschema@.etcd_fdw_home() IS
  'Tells this database from its copies in other clusters, or in this one; internal to etcd_fdw.';

CREATE TABLE @extschema@.etcd_fdw_follower (
  name text PRIMARY KEY,
  kind text NOT NULL,
  owner regrole NOT NULL,
  server text NOT NULL,
  key bytea NOT NULL,
  range_end bytea,
  prev boolean NOT NULL DEFAULT false,
  state text NOT NULL DEFAULT 'running',
  revision bigint NOT NULL,
  cluster bigint NOT NULL DEFAULT 0,
  channel text,
  batch boolean NOT NULL DEFAULT false,
  source regclass,
  target regclass,
  filter text,
  key_columns text[],
  skips bigint[] NOT NULL DEFAULT '{}',
  verify interval,
  shape bigint NOT NULL DEFAULT 0,
  home text NOT NULL DEFAULT @extschema@.etcd_fdw_home()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE UNIQUE INDEX etcd_fdw_follower_target ON @extschema@.etcd_fdw_follower (target);
COMMENT ON TABLE @extschema@.etcd_fdw_follower IS
  'Subscriptions and mirrors with their positions; changed by etcd_subscribe() and its like only. Part of a dump.';
GRANT SELECT ON @extschema@.etcd_fdw_follower TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.etcd_fdw_follower', '');

CREATE TABLE @extschema@.etcd_fdw_left_out (
  name text NOT NULL,
  key bytea NOT NULL,
  revision bigint NOT NULL
);
CREATE INDEX etcd_fdw_left_out_name ON @extschema@.etcd_fdw_left_out (name);
COMMENT ON TABLE @extschema@.etcd_fdw_left_out IS
  'The keys that mirrors leave out, by etcd_resume() with skip, each until it changes again. Part of a dump.';
GRANT SELECT ON @extschema@.etcd_fdw_left_out TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.etcd_fdw_left_out', '');

CREATE TABLE @extschema@.etcd_fdw_follower_status (
  name text PRIMARY KEY,
  events bigint NOT NULL DEFAULT 0,
  behind bigint NOT NULL DEFAULT 0,
  in_step_at timestamptz,
  error text,
  error_at timestamptz,
  error_revision bigint,
  error_key bytea,
  repaired bigint NOT NULL DEFAULT 0,
  verified_at timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE @extschema@.etcd_fdw_follower_status IS 'How subscriptions and mirrors fare; shown by views etcd_fdw_subscriptions and etcd_fdw_mirrors.';

CREATE FUNCTION @extschema@.etcd_fdw_followers_changed() RETURNS trigger
  LANGUAGE c AS 'MODULE_PATHNAME', 'etcd_fdw_followers_changed';
REVOKE EXECUTE ON FUNCTION @extschema@.etcd_fdw_followers_changed() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.etcd_fdw_followers_changed() IS 'has the worker look at the table; internal to etcd_fdw';
CREATE TRIGGER changed AFTER INSERT OR DELETE OR UPDATE OF name, kind, owner, server, key, range_end, prev, state, channel, batch,
    source, target, filter, key_columns, skips, verify, home ON @extschema@.etcd_fdw_follower
  FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.etcd_fdw_followers_changed();

CREATE FUNCTION @extschema@.etcd_follow() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_follow';
COMMENT ON FUNCTION @extschema@.etcd_follow() IS
  'Starts the worker of this database''s subscriptions and mirrors, if it does not run: after a restart of the server without etcd_fdw in shared_preload_libraries. Those of roles that the user is a member of which were restored from a dump, or copied with their database, go on here from then on.';

CREATE FUNCTION @extschema@.etcd_subscribe(
    name text, prefix text, channel text, server text DEFAULT NULL, key text DEFAULT NULL, range_end text DEFAULT NULL,
    after_revision bigint DEFAULT NULL, prev boolean DEFAULT false, batch boolean DEFAULT false) RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_subscribe';
COMMENT ON FUNCTION @extschema@.etcd_subscribe(text, text, text, text, text, text, bigint, boolean, boolean) IS
  'From the commit on, tells what happens to the keys with this prefix (or to one key, or those from key up to range_end) to who LISTENs to the channel, as JSON. Behind which revision: after_revision, or the present one. With prev the values before are told, too; with batch a notification holds an array of events.';

CREATE FUNCTION @extschema@.etcd_unsubscribe(name text) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_unfollow';
COMMENT ON FUNCTION @extschema@.etcd_unsubscribe(text) IS 'Ends a subscription.';

CREATE FUNCTION @extschema@.etcd_pause(name text) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_pause';
COMMENT ON FUNCTION @extschema@.etcd_pause(text) IS
  'Halts a subscription or a mirror. From the commit on nothing more is told; its position stays.';

CREATE FUNCTION @extschema@.etcd_resume(name text, skip bigint DEFAULT NULL) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_resume';
COMMENT ON FUNCTION @extschema@.etcd_resume(text, bigint) IS
  'Lets a subscription or a mirror go on where it was, also one that was restored. skip is a revision of which the target of a mirror refuses rows: these are left out, each until its key changes again.';

CREATE FUNCTION @extschema@.etcd_fdw_follows(kind text, name text) RETURNS boolean
  LANGUAGE sql STABLE PARALLEL RESTRICTED
BEGIN ATOMIC
  SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l
    WHERE l.locktype OPERATOR(pg_catalog.=) 'object'::pg_catalog.text AND l.granted
      AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
        WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
      AND l.classid OPERATOR(pg_catalog.=) '@extschema@.etcd_fdw_follower'::pg_catalog.regclass::pg_catalog.oid
      AND CASE WHEN $1 OPERATOR(pg_catalog.=) 'mirror'::pg_catalog.text
        THEN l.objsubid OPERATOR(pg_catalog.=) 2::pg_catalog.int2
          AND l.objid OPERATOR(pg_catalog.=) (pg_catalog.hashtext($2)::pg_catalog.oid)
        ELSE l.objsubid OPERATOR(pg_catalog.=) 1::pg_catalog.int2 END);
END;
COMMENT ON FUNCTION @extschema@.etcd_fdw_follows(text, text) IS 'Whether a worker is at it; internal to etcd_fdw.';

CREATE VIEW @extschema@.etcd_fdw_followers WITH (security_barrier) AS
  SELECT f.name, f.kind, f.owner, f.server, pg_catalog.encode(f.key, 'escape') AS key,
    pg_catalog.encode(f.range_end, 'escape') AS range_end, f.channel, f.source, f.target, f.filter,
    CASE WHEN f.state OPERATOR(pg_catalog.<>) 'running'::pg_catalog.text THEN f.state
      WHEN f.home OPERATOR(pg_catalog.<>) @extschema@.etcd_fdw_home() THEN 'restored'
      WHEN NOT w.works THEN 'stopped'
      WHEN s.error IS NOT NULL THEN 'retrying'
      ELSE 'running' END AS state,
    f.revision, coalesce(s.events, 0::pg_catalog.int8) AS events, coalesce(s.behind, 0::pg_catalog.int8) AS lag_events,
    CASE WHEN f.state OPERATOR(pg_catalog.=) 'running'::pg_catalog.text AND s.error IS NULL AND w.works
        AND coalesce(s.behind, 0::pg_catalog.int8) OPERATOR(pg_catalog.=) 0::pg_catalog.int8
      THEN '0'::pg_catalog.interval
      ELSE pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) s.in_step_at END AS lag,
    s.error, s.error_at, s.error_revision, pg_catalog.encode(s.error_key, 'escape') AS error_key,
    coalesce(s.repaired, 0::pg_catalog.int8) AS repaired, s.verified_at,
    (SELECT pg_catalog.count(l.name) FROM @extschema@.etcd_fdw_left_out l WHERE l.name OPERATOR(pg_catalog.=) f.name) AS left_out
  FROM @extschema@.etcd_fdw_follower f
    CROSS JOIN LATERAL (SELECT f.home OPERATOR(pg_catalog.=) @extschema@.etcd_fdw_home()
      AND @extschema@.etcd_fdw_follows(f.kind, f.name) AS works) w
    LEFT JOIN @extschema@.etcd_fdw_follower_status s ON s.name OPERATOR(pg_catalog.=) f.name
  WHERE pg_catalog.pg_has_role(f.owner::pg_catalog.oid, 'USAGE') OR pg_catalog.pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW @extschema@.etcd_fdw_followers IS 'What views etcd_fdw_subscriptions and etcd_fdw_mirrors show; internal to etcd_fdw.';

CREATE VIEW @extschema@.etcd_fdw_subscriptions AS
  SELECT r.name, r.owner, r.server, r.key, r.range_end, r.channel, r.state, r.revision, r.events, r.lag_events, r.lag,
    r.error, r.error_at
  FROM @extschema@.etcd_fdw_followers r
  WHERE r.kind OPERATOR(pg_catalog.=) 'subscription'::pg_catalog.text;
COMMENT ON VIEW @extschema@.etcd_fdw_subscriptions IS
  'The subscriptions of roles that the user is a member of, or all for members of pg_monitor. state: running; retrying, with the error; paused; restored from a dump, or copied with its database (see etcd_follow()); stopped, when no worker runs (the same). All events up to revision have been told; lag_events are known that have not, and lag is how long ago that was none.';
GRANT SELECT ON @extschema@.etcd_fdw_subscriptions TO PUBLIC;

CREATE FUNCTION @extschema@.etcd_mirror(
    name text, target regclass, source regclass DEFAULT NULL, prefix text DEFAULT NULL, server text DEFAULT NULL,
    filter text DEFAULT NULL, verify interval DEFAULT '1 day') RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_mirror';
COMMENT ON FUNCTION @extschema@.etcd_mirror(text, regclass, regclass, text, text, text, interval) IS
  'From the commit on, keeps a local table equal to a foreign table, by the columns of the same names: first a snapshot at one revision, then each change. Instead of a foreign table, a prefix: one is made for it, named after the mirror. filter is a condition on the foreign table''s rows; verify is how often all is compared with etcd, NULL for never. The target needs a unique index on the columns that tell etcd''s keys apart.';

CREATE FUNCTION @extschema@.etcd_unmirror(name text) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_unfollow';
COMMENT ON FUNCTION @extschema@.etcd_unmirror(text) IS 'Ends a mirror; its tables stay as they are.';

CREATE VIEW @extschema@.etcd_fdw_mirrors AS
  SELECT r.name, r.owner, r.server, r.source, r.target, r.filter,
    CASE WHEN r.state OPERATOR(pg_catalog.=) 'running'::pg_catalog.text AND r.revision OPERATOR(pg_catalog.=) 0::pg_catalog.int8
      THEN 'snapshot' ELSE r.state END AS state,
    r.revision, r.events, r.lag_events, r.lag, r.error, r.error_at, r.error_revision, r.error_key, r.left_out, r.repaired, r.verified_at
  FROM @extschema@.etcd_fdw_followers r
  WHERE r.kind OPERATOR(pg_catalog.=) 'mirror'::pg_catalog.text;
COMMENT ON VIEW @extschema@.etcd_fdw_mirrors IS
  'The mirrors of roles that the user is a member of, or all for members of pg_monitor. state: snapshot; running; retrying, with the error; failed, when the target refuses a row (error_key, error_revision; see etcd_resume()); paused; restored from a dump, or copied with its database (see etcd_follow()); stopped, when no worker runs (the same). The target shows etcd as it was at revision, without left_out keys (see etcd_resume()). repaired rows differed when verified.';
GRANT SELECT ON @extschema@.etcd_fdw_mirrors TO PUBLIC;
