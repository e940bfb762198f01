"""The statements of the store in PostgreSQL. Each is a transaction of its own: one round trip, one commit.

Rows come in as arrays, so that one statement serves any number of callers. The clock is clock_timestamp() throughout.
"""

MAX_WAYS = 100  # destinations a claim looks at in one lane; with more of them the next claim goes on from there

# Ids, records and bodies of messages to be stored: the first eleven parameters of whoever stores.
_MESSAGES = """
    message AS (
        SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::boolean[]) AS m (id, envelope, recipients, destination, size, crc, owner, is_in_doubt)
    ),
    part AS (
        SELECT * FROM unnest($9::text[], $10::integer[], $11::bytea[]) AS p (id, part, data)
    )
"""

# What is not returned is there already, or has been given up (GIVE_UP). $12: the lease in seconds, $13 and
# $14 of each message: when to try it first, in seconds, and why it was not delivered before it came.
ACCEPT = f"""
WITH {_MESSAGES},
stored AS (
    INSERT INTO mailflow.entry (id, state, lane, destination, next_try, owner, is_begun, is_in_doubt, attempts, crashes,
        arrived_at, size, crc, last_error, is_delay_told, envelope, recipients)
    SELECT id, 'queued', (error <> '')::integer, destination,
        clock_timestamp() + make_interval(secs => CASE WHEN owner = 0 THEN retry_s ELSE $12 END),
        nullif(owner, 0), owner <> 0, is_in_doubt, (owner <> 0 OR error <> '')::integer, 0,
        clock_timestamp(), size, crc, error, false, envelope, recipients
    FROM message JOIN unnest($1::text[], $13::float8[], $14::text[]) AS before (id, retry_s, error) USING (id)
    ON CONFLICT (id) DO NOTHING
    RETURNING id, arrived_at
),
bodies AS (
    INSERT INTO mailflow.body (id, part, data) SELECT part.id, part, data FROM part JOIN stored ON stored.id = part.id
)
SELECT id, extract(epoch FROM arrived_at)::float8 AS arrived_at FROM stored
"""

# Makes sure that $1 is not stored and never will be, by whatever statement is still under way: the unique index lets
# this wait for a transaction that has inserted the id, and one that comes later finds the id taken.
GIVE_UP = """
INSERT INTO mailflow.entry (id, state, lane, destination, is_begun, is_in_doubt, attempts, crashes, arrived_at, size,
    crc, last_error, is_delay_told, envelope, recipients)
VALUES ($1, 'gone', 0, '', false, false, 0, 0, clock_timestamp(), 0, 0, '', false, '', '')
ON CONFLICT (id) DO NOTHING
RETURNING id
"""
LOOK_UP = """
SELECT id, state, owner, extract(epoch FROM arrived_at)::float8 AS arrived_at FROM mailflow.entry WHERE id = ANY ($1)
"""
# By then no statement of old can be under way: statement_timeout is far shorter.
FORGET_GIVEN_UP = """
DELETE FROM mailflow.entry WHERE state = 'gone' AND arrived_at < clock_timestamp() - interval '1 hour'
"""

ENTER = """
INSERT INTO mailflow.worker (name, expires_at) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
RETURNING epoch
"""
HEARTBEAT = """
UPDATE mailflow.worker SET expires_at = clock_timestamp() + make_interval(secs => $2)
WHERE epoch = $1 AND expires_at > clock_timestamp()
RETURNING epoch
"""
# $2: the ids that the epoch still owns, as far as its process knows; what it does not know of waits for the lease.
LEAVE = """
WITH gone AS (DELETE FROM mailflow.worker WHERE epoch = $1)
UPDATE mailflow.entry
SET owner = NULL, next_try = clock_timestamp(), is_begun = false, is_in_doubt = false,
    lane = CASE WHEN is_begun THEN 1 ELSE lane END
WHERE id = ANY ($2) AND owner = $1
"""

# What waits for one destination, oldest first. Compared and sorted as a row, which only entry_turn can serve: given
# the choice, the planner walks entry_next through all that is due for others.
_WAITING = """
        FROM mailflow.entry e
        WHERE (e.lane, e.destination, e.next_try) >= (w.lane, w.destination, '-infinity'::timestamptz)
            AND (e.lane, e.destination, e.next_try) <= (w.lane, w.destination, clock.now)
            AND e.next_try IS NOT NULL AND (e.owner IS NULL OR e.owner <> ALL (living.epochs))
        ORDER BY e.lane, e.destination, e.next_try
"""

# What epoch $1 owns and its process does not know of ($2: what it does), as the answer to a claim was lost.
DISOWN = """
UPDATE mailflow.entry
SET owner = NULL, next_try = clock_timestamp(), is_begun = false, is_in_doubt = false,
    lane = CASE WHEN is_begun THEN 1 ELSE lane END
WHERE owner = $1 AND next_try IS NOT NULL AND id <> ALL ($2)
RETURNING id
"""

# $1 epoch, $2 lease in seconds, $3 limit, $4 full destinations, $5 takes a suspect, $6 where to start in each lane,
# $7 which destination had the last turn in each lane, $8 the share of deferred mail, $9 crashes that are too many.
#
# An epoch that is over is buried before its mail is taken: its heartbeat and this DELETE meet at the row's lock, so it
# either lives on and keeps its mail, or hears that it is over. `way` steps from one destination to the next by the
# index (a loose index scan), `due` looks how much waits on each, `taken` shares the limit out in turns, and only
# `chosen` locks: what another claim has locked is passed over, never waited for. One whose attempt began and whose
# worker died is not claimed here: it becomes a suspect, and nobody's (owner NULL).
CLAIM = f"""
WITH RECURSIVE
clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
buried AS (
    DELETE FROM mailflow.worker WHERE epoch IN (
        SELECT epoch FROM mailflow.worker WHERE expires_at <= clock_timestamp() FOR UPDATE SKIP LOCKED)
    RETURNING epoch
),
living AS MATERIALIZED (
    SELECT coalesce(array_agg(epoch), '{{}}') AS epochs FROM mailflow.worker
    WHERE epoch NOT IN (SELECT epoch FROM buried)
),
me AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM mailflow.worker WHERE epoch = $1 AND expires_at > clock_timestamp()) AS is_alive
),
way (lane, destination, step) AS (
    SELECT l.lane, first.destination, 1
    FROM (VALUES (0::smallint), (1::smallint), (2::smallint)) AS l (lane)
    CROSS JOIN LATERAL (
        SELECT destination FROM mailflow.entry e
        WHERE e.lane = l.lane AND e.destination >= ($6::text[])[l.lane + 1] AND e.next_try IS NOT NULL
        ORDER BY e.destination LIMIT 1
    ) AS first
    UNION ALL
    SELECT w.lane, next.destination, w.step + 1
    FROM way w
    CROSS JOIN LATERAL (
        SELECT destination FROM mailflow.entry e
        WHERE e.lane = w.lane AND e.destination > w.destination AND e.next_try IS NOT NULL
        ORDER BY e.destination LIMIT 1
    ) AS next
    WHERE w.step < {MAX_WAYS}
),
open_way AS MATERIALIZED (
    SELECT w.lane, w.destination,
        least($3::bigint, ceil(4.0 * $3 / count(*) OVER (PARTITION BY w.lane))::bigint) AS bound
    FROM way w CROSS JOIN clock CROSS JOIN living
    CROSS JOIN LATERAL (SELECT e.id {_WAITING} LIMIT 1) AS first
    WHERE w.destination <> ALL ($4::text[])
),
due AS MATERIALIZED (
    SELECT w.lane, w.destination, w.bound, waiting.place
    FROM open_way w CROSS JOIN clock CROSS JOIN living
    CROSS JOIN LATERAL (
        SELECT row_number() OVER () AS place FROM (SELECT e.id {_WAITING} LIMIT w.bound + 1) AS few
    ) AS waiting
),
ranked AS MATERIALIZED (
    SELECT lane, destination,
        row_number() OVER (
            PARTITION BY lane ORDER BY place, destination <= ($7::text[])[lane + 1], destination
        ) AS rank
    FROM due WHERE place <= bound
),
supply AS MATERIALIZED (
    SELECT count(*) FILTER (WHERE lane = 0) AS new, count(*) FILTER (WHERE lane = 1) AS deferred,
        least(count(*) FILTER (WHERE lane = 2), $5::boolean::integer) AS suspect
    FROM ranked
),
quota AS MATERIALIZED (
    SELECT suspect, least(deferred, greatest($3 - suspect - new, least($8, $3 - suspect))) AS deferred FROM supply
),
taken AS MATERIALIZED (
    SELECT r.lane, r.destination, r.rank
    FROM ranked r CROSS JOIN quota q CROSS JOIN me
    WHERE me.is_alive AND r.rank <= CASE r.lane
        WHEN 0 THEN $3 - q.suspect - q.deferred WHEN 1 THEN q.deferred ELSE q.suspect END
),
chosen AS MATERIALIZED (
    SELECT c.id
    FROM (SELECT lane, destination, count(*) AS number FROM taken GROUP BY lane, destination) AS w
    CROSS JOIN clock CROSS JOIN living
    CROSS JOIN LATERAL (SELECT e.id {_WAITING} LIMIT w.number FOR UPDATE SKIP LOCKED) AS c
),
claimed AS (
    UPDATE mailflow.entry e SET
        owner = CASE WHEN NOT e.is_begun THEN $1::bigint END,
        next_try = CASE
            WHEN NOT e.is_begun THEN clock_timestamp() + make_interval(secs => $2)
            WHEN e.crashes + 1 < $9 THEN clock_timestamp()
        END,
        state = CASE WHEN e.is_begun AND e.crashes + 1 >= $9 THEN 'set_aside' ELSE e.state END,
        lane = CASE WHEN e.is_begun THEN 2 ELSE e.lane END,
        crashes = e.crashes + e.is_begun::integer,
        last_error = CASE
            WHEN e.is_begun AND e.crashes + 1 >= $9 THEN 'set aside: ' || $9 || ' attempts ended with their worker'
            ELSE e.last_error
        END,
        is_begun = false,
        is_in_doubt = false
    WHERE e.id = ANY (ARRAY (SELECT id FROM chosen))
    RETURNING e.*
)
SELECT me.is_alive,
    (SELECT count(*) FROM claimed WHERE owner IS NULL) AS crashed,
    (SELECT array_agg((SELECT destination FROM taken t WHERE t.lane = l ORDER BY rank DESC LIMIT 1) ORDER BY l)
        FROM generate_series(0, 2) AS l) AS last_turns,
    (SELECT array_agg((SELECT destination FROM way w WHERE w.lane = l AND step = {MAX_WAYS}) ORDER BY l)
        FROM generate_series(0, 2) AS l) AS cut_at,
    CASE WHEN (SELECT count(*) FROM due WHERE lane < 2 OR $5::boolean) > (SELECT count(*) FROM taken) THEN 0.0::float8
    ELSE (
        SELECT extract(epoch FROM e.next_try - clock.now)::float8 FROM mailflow.entry e
        WHERE e.next_try > clock.now AND (e.owner IS NULL OR e.owner <> ALL (living.epochs))
        ORDER BY e.next_try LIMIT 1
    ) END AS next_due_s,
    c.id, c.envelope, c.recipients, c.size, c.attempts, c.crashes, c.last_error, c.is_delay_told,
    extract(epoch FROM c.arrived_at)::float8 AS arrived_at,
    extract(epoch FROM clock.now - c.arrived_at)::float8 AS age_s,
    NULL::float8 AS next_try_s,
    'active' AS state
FROM clock CROSS JOIN living CROSS JOIN me LEFT JOIN claimed c ON c.owner IS NOT NULL
ORDER BY c.lane, c.arrived_at
"""

# Steps of deliveries: $12 id, $13 epoch, $14 step, $15 recipients, $16 destination, $17 retry in seconds, $18 error,
# $19 is the delay told; $20 to which of them each message of $1 to $11 is a report. Returned: what was done.
PROGRESS = f"""
WITH {_MESSAGES},
step AS MATERIALIZED (
    SELECT s.* FROM unnest($12::text[], $13::bigint[], $14::text[], $15::bytea[], $16::text[], $17::float8[],
        $18::text[], $19::boolean[]) AS s (id, epoch, step, recipients, destination, retry_s, error, is_delay_told)
    JOIN mailflow.worker w ON w.epoch = s.epoch AND w.expires_at > clock_timestamp()
),
removed AS (
    DELETE FROM mailflow.entry e USING step s
    WHERE e.id = s.id AND e.owner = s.epoch AND s.step = 'remove'
    RETURNING e.id
),
removed_body AS (DELETE FROM mailflow.body b USING removed r WHERE b.id = r.id),
changed AS (
    UPDATE mailflow.entry e SET
        is_begun = CASE s.step WHEN 'begin' THEN true WHEN 'doubt' THEN e.is_begun ELSE false END,
        is_in_doubt = s.step = 'doubt',
        attempts = e.attempts + (s.step = 'begin' AND NOT e.is_begun)::integer,
        owner = CASE WHEN s.step IN ('begin', 'doubt') THEN e.owner END,
        state = CASE s.step WHEN 'aside' THEN 'set_aside' ELSE e.state END,
        lane = CASE
            WHEN s.step IN ('begin', 'doubt') OR s.step = 'back' AND NOT e.is_begun THEN e.lane
            ELSE 1
        END,
        next_try = CASE s.step
            WHEN 'back' THEN clock_timestamp()
            WHEN 'settle' THEN clock_timestamp() + make_interval(secs => s.retry_s)
            WHEN 'aside' THEN NULL
            ELSE e.next_try
        END,
        recipients = coalesce(s.recipients, e.recipients),
        destination = coalesce(s.destination, e.destination),
        last_error = coalesce(s.error, e.last_error),
        is_delay_told = e.is_delay_told OR s.is_delay_told
    FROM step s
    WHERE e.id = s.id AND e.owner = s.epoch AND s.step <> 'remove'
    RETURNING e.id
),
done AS (SELECT id FROM removed UNION ALL SELECT id FROM changed),
report AS (
    INSERT INTO mailflow.entry (id, state, lane, destination, next_try, is_begun, is_in_doubt, attempts, crashes,
        arrived_at, size, crc, last_error, is_delay_told, envelope, recipients)
    SELECT m.id, 'queued', 0, m.destination, clock_timestamp(), false, false, 0, 0,
        clock_timestamp(), m.size, m.crc, '', false, m.envelope, m.recipients
    FROM message m JOIN unnest($1::text[], $20::text[]) AS of (id, settled) ON of.id = m.id
    JOIN done ON done.id = of.settled
    ON CONFLICT (id) DO NOTHING
    RETURNING id
),
report_body AS (
    INSERT INTO mailflow.body (id, part, data) SELECT part.id, part, data FROM part JOIN report ON report.id = part.id
)
SELECT id FROM done
"""
SET_ASIDE = """
UPDATE mailflow.entry SET state = 'set_aside', next_try = NULL, owner = NULL, is_begun = false, is_in_doubt = false,
    last_error = $2
WHERE id = ANY ($1) AND state <> 'gone' RETURNING id
"""
NOTIFY = "SELECT pg_notify('mailflow_due', '')"
CHANNEL = "mailflow_due"
# One row without data where the entry has no body.
OPEN_BODY = """
SELECT e.size, e.crc, b.data FROM mailflow.entry e LEFT JOIN mailflow.body b ON b.id = e.id
WHERE e.id = $1 AND e.state <> 'gone' ORDER BY b.part
"""
PROBE = "INSERT INTO mailflow.body (id, part, data) VALUES ($1, 0, $2)"
