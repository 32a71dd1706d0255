-- Keys and values. Each function is written here with the server as its first argument; the build makes the forms
-- without it and those for bytea. All of them act at once, whatever becomes of the transaction: tables are transactional.

CREATE TYPE @extschema@.etcd_row AS (
  key text, value text, create_revision bigint, mod_revision bigint, version bigint, lease bigint);
COMMENT ON TYPE @extschema@.etcd_row IS
  'a key of etcd: create_revision is the store''s revision that made it, mod_revision the last one that changed it, version counts the changes from 1, lease is 0 for none';
CREATE TYPE @extschema@.etcd_row_bytea AS (
  key bytea, value bytea, create_revision bigint, mod_revision bigint, version bigint, lease bigint);
COMMENT ON TYPE @extschema@.etcd_row_bytea IS 'the same for keys and values that are not text';

CREATE FUNCTION @extschema@.etcd_get(
    server text, key text, revision bigint DEFAULT NULL, serializable boolean DEFAULT false)
  RETURNS text
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_get(text, text, bigint, boolean) IS
  'The value of a key, NULL when there is no such key. With revision, as it was then; with serializable, as the member that is asked knows it, which may be a little behind. Like all functions it reads etcd itself, not what the transaction has written to tables.';

CREATE FUNCTION @extschema@.etcd_get_row(
    server text, key text, revision bigint DEFAULT NULL, serializable boolean DEFAULT false)
  RETURNS SETOF @extschema@.etcd_row
  LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_get_row(text, text, bigint, boolean) IS
  'A key with all that etcd knows of it; no row when there is no such key.';

CREATE FUNCTION @extschema@.etcd_range(
    server text, key text, prefix boolean DEFAULT false, range_end text DEFAULT NULL, "limit" bigint DEFAULT NULL,
    revision bigint DEFAULT NULL, sort text DEFAULT NULL, keys_only boolean DEFAULT false,
    serializable boolean DEFAULT false, min_mod_revision bigint DEFAULT NULL, max_mod_revision bigint DEFAULT NULL,
    min_create_revision bigint DEFAULT NULL, max_create_revision bigint DEFAULT NULL)
  RETURNS SETOF @extschema@.etcd_row
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_range(text, text, boolean, text, bigint, bigint, text, boolean, boolean, bigint, bigint, bigint, bigint) IS
  'The keys of a range in the order of their bytes, all of one revision: the key itself; with prefix, all keys that begin with it; with range_end, all keys from key up to but not including that one. A range_end of '''' is the end of the key space. sort is key, value, version, create_revision or mod_revision, with asc or desc behind it; keys_only leaves the values NULL; the bounds of revisions are inclusive.';

CREATE FUNCTION @extschema@.etcd_count(
    server text, key text, prefix boolean DEFAULT false, range_end text DEFAULT NULL, revision bigint DEFAULT NULL,
    serializable boolean DEFAULT false)
  RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_count(text, text, boolean, text, bigint, boolean) IS
  'How many keys there are: 0 or 1 of the key itself, with prefix or range_end those of the range as in etcd_range(). No key is sent.';

CREATE FUNCTION @extschema@.etcd_put(
    server text, key text, value text, lease bigint DEFAULT NULL, ttl interval DEFAULT NULL,
    ignore_value boolean DEFAULT false, ignore_lease boolean DEFAULT false)
  RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_put(text, text, text, bigint, interval, boolean, boolean) IS
  'Writes a key at once and answers the revision. With lease, the key ends with that lease; with ttl, with a new lease of that length; ignore_lease leaves the key''s lease as it is, ignore_value (and a NULL as value) its value. A ROLLBACK does not take it back: INSERT into a foreign table does that.';

CREATE FUNCTION @extschema@.etcd_put_returning(
    server text, key text, value text, lease bigint DEFAULT NULL, ttl interval DEFAULT NULL,
    ignore_value boolean DEFAULT false, ignore_lease boolean DEFAULT false)
  RETURNS TABLE(revision bigint, prev_key text, prev_value text, prev_create_revision bigint, prev_mod_revision bigint,
    prev_version bigint, prev_lease bigint)
  LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_put_returning(text, text, text, bigint, interval, boolean, boolean) IS
  'Writes as etcd_put() does and shows what the key was before; NULLs when it was not there. What is not text is shown in hexadecimal, as bytea is, with a warning.';

CREATE FUNCTION @extschema@.etcd_delete(
    server text, key text, prefix boolean DEFAULT false, range_end text DEFAULT NULL)
  RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_delete(text, text, boolean, text) IS
  'Deletes a key, or with prefix or range_end all keys of a range as in etcd_range(), at once and in one step; how many there were.';

CREATE FUNCTION @extschema@.etcd_delete_returning(
    server text, key text, prefix boolean DEFAULT false, range_end text DEFAULT NULL)
  RETURNS SETOF @extschema@.etcd_row
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_delete_returning(text, text, boolean, text) IS
  'Deletes as etcd_delete() does and shows what was deleted. What is not text is shown in hexadecimal, as bytea is, with a warning.';

CREATE FUNCTION @extschema@.etcd_changes(server text, prefix text, after_revision bigint)
  RETURNS TABLE(key text, value text, create_revision bigint, mod_revision bigint, version bigint, lease bigint, deleted boolean)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_changes(text, text, bigint) IS
  'Each key below the prefix that has changed after a revision, as it is now, in the order of the changes; deleted ones have their key, the revision of the deletion, and deleted. Nothing when there is no such revision yet. An error when revisions after that one have been compacted away.';

CREATE FUNCTION @extschema@.etcd_history(server text, key text, from_revision bigint DEFAULT NULL)
  RETURNS TABLE(revision bigint, value text, create_revision bigint, version bigint, lease bigint, deleted boolean)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_history(text, text, bigint) IS
  'Every version of a key that etcd still keeps, oldest first, deletions included; with from_revision, those of that revision and later.';


CREATE FUNCTION @extschema@.etcd_revision(server text)
  RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_revision(text) IS
  'The store''s revision now: etcd_watch() and etcd_changes() can begin behind it.';

CREATE FUNCTION @extschema@.etcd_watch(
    server text, key text, prefix boolean DEFAULT false, range_end text DEFAULT NULL,
    after_revision bigint DEFAULT NULL, wait interval DEFAULT '10 s', max_events bigint DEFAULT NULL,
    prev boolean DEFAULT false)
  RETURNS TABLE(kind text, key text, value text, prev_value text, create_revision bigint, mod_revision bigint,
    version bigint, lease bigint)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_watch(text, text, boolean, text, bigint, interval, bigint, boolean) IS
  'What happens to a key, or with prefix or range_end to the keys of a range as in etcd_range(), in etcd''s order: kind is put or delete. It begins behind after_revision, without with what happens from now on, and ends when wait is over or max_events have come, with what has come; what one transaction of etcd did comes whole, so that there may be more. With prev, prev_value is what was there before. Called again with the last mod_revision it goes on without a gap. An error when events after that revision have been compacted away.';
