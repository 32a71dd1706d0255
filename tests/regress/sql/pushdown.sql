-- Each query beside its EXPLAIN: what is sent to etcd, and what PostgreSQL checks itself.
-- The etcd of this suite is empty but for what other programs put there, so no rows are shown.
SET client_min_messages = warning;
CREATE EXTENSION etcd_fdw;
\set endpoint `echo $ETCD_ENDPOINT`
CREATE SERVER etcd FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr :'endpoint');
CREATE FOREIGN TABLE t (key text, value text, mod_revision bigint) SERVER etcd OPTIONS (prefix '/regress/');
CREATE FOREIGN TABLE s (key text, value bytea) SERVER etcd OPTIONS (prefix '/regress/', strip_prefix 'true');
CREATE FOREIGN TABLE everything (key text) SERVER etcd;

EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM everything;
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t;
SELECT * FROM t;
EXPLAIN (VERBOSE, COSTS OFF) SELECT mod_revision FROM t WHERE key = '/regress/a';
SELECT mod_revision FROM t WHERE key = '/regress/a';
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE '/regress/a' = key;
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key = '/elsewhere/a';
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key LIKE '/regress/a%';
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key LIKE '/regress/a\_b%';
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key LIKE '/regress/a_b%';
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key LIKE '%x%';
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key ^@ '/regress/b';
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key < '/regress/b';
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key < '/regress/b' COLLATE "C";
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key COLLATE "C" BETWEEN '/regress/b' AND '/regress/d';
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key = '/regress/a' AND value = 'x';
EXPLAIN (VERBOSE, COSTS OFF) SELECT key FROM s WHERE key = 'a';
EXPLAIN (VERBOSE, COSTS OFF) SELECT key FROM s WHERE key LIKE 'a%';

-- OR, lists, contradictions
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key = '/regress/a' OR key LIKE '/regress/c%';
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key IN ('/regress/c', '/regress/a', '/regress/a', NULL);
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE key LIKE '/regress/a%' AND key LIKE '/regress/b%';
EXPLAIN (VERBOSE, COSTS OFF) SELECT key FROM t WHERE mod_revision > 5 AND 9 >= mod_revision;

-- orders, limits, aggregates
CREATE FOREIGN TABLE c (key text COLLATE "C", value text, mod_revision bigint) SERVER etcd
  OPTIONS (prefix '/regress/');
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM c ORDER BY key DESC;
EXPLAIN (VERBOSE, COSTS OFF) SELECT key FROM c ORDER BY key LIMIT 5 OFFSET 2;
EXPLAIN (VERBOSE, COSTS OFF) SELECT key FROM c ORDER BY mod_revision DESC LIMIT 5;
EXPLAIN (VERBOSE, COSTS OFF) SELECT key FROM t ORDER BY key LIMIT 5;
EXPLAIN (VERBOSE, COSTS OFF) SELECT key FROM c WHERE value = 'x' LIMIT 5;
EXPLAIN (VERBOSE, COSTS OFF) SELECT count(*), min(key), max(key) FROM c WHERE key > '/regress/b';
SELECT count(*), min(key), max(key) FROM c WHERE key > '/regress/b';

-- a key looked up for each outer row
CREATE TABLE l (k text);
INSERT INTO l VALUES ('/regress/a'), ('/regress/b');
ANALYZE l;
EXPLAIN (VERBOSE, COSTS OFF) SELECT value FROM l LEFT JOIN t ON key = k;
DROP TABLE l;

-- a prepared statement with a generic plan shows what is filled in later
SET plan_cache_mode = force_generic_plan;
PREPARE q (text) AS SELECT key FROM t WHERE key = $1;
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE q ('/regress/a');
EXECUTE q ('/regress/a');
EXECUTE q (NULL);
PREPARE l (text) AS SELECT key FROM t WHERE key LIKE $1;
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE l ('/regress/a%');
RESET plan_cache_mode;

-- options that change the request
CREATE FOREIGN TABLE past (key text, value text) SERVER etcd
  OPTIONS (key 'a', range_end 'b', revision '1', consistency 's', keys_only 'true');
EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM past;

-- what is wrong is said with the way out
CREATE FOREIGN TABLE wrong (key text, owner text) SERVER etcd;
SELECT key FROM wrong;
ALTER FOREIGN TABLE wrong ALTER owner TYPE integer, OPTIONS (ADD perfix 'x');
CREATE SERVER wrong FOREIGN DATA WRAPPER etcd_fdw OPTIONS (connstr 'localhost:http');

DROP EXTENSION etcd_fdw CASCADE;
