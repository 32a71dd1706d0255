/*
 * converse.c
 *	  An operation of core that needs etcd's answers, from beginning to end:
 *	  for everything but scans, whose pages do not pass through core.
 */
#include "postgres.h"

#include "etcd_fdw.h"

#include "miscadmin.h"
#include "utils/json.h"
#include "utils/memutils.h"

/*
 * Runs the operation; as long as core wants a request sent, sends it and hands
 * the reply back.  The last answer is allocated in the current memory context,
 * what comes before it is freed.
 */
void
etcd_converse(Oid userid, Oid serverid, const char *op, StringInfo input, EtcdAnswer *answer)
{
	Oid			function = etcd_dispatch_function(serverid);
	MemoryContext target = CurrentMemoryContext;
	MemoryContext turns[2] = {
		AllocSetContextCreate(target, "etcd_fdw turn", ALLOCSET_DEFAULT_SIZES),
		AllocSetContextCreate(target, "etcd_fdw turn", ALLOCSET_DEFAULT_SIZES)
	};
	const char *bytes = "";
	int			len = 0;

	for (int turn = 0;; turn = 1 - turn)
	{
		EtcdRequest *request;
		ErrorData	fields = {0};
		StringInfo	next;
		EtcdAnswer	step;

		/* What the last turn left behind is this one's input. */
		MemoryContextReset(turns[turn]);
		MemoryContextSwitchTo(turns[turn]);
		CHECK_FOR_INTERRUPTS();
		etcd_dispatch_bytes(function, op, input, bytes, len, &step);
		if (!etcd_json_is(step.control, "do", "call"))
		{
			MemoryContextSwitchTo(target);
			answer->control = (Jsonb *) PG_DETOAST_DATUM_COPY(PointerGetDatum(step.control));
			answer->payload_len = step.payload_len;
			answer->payload = memcpy(palloc(step.payload_len + 1), step.payload, step.payload_len);
			break;
		}
		request = etcd_send_frame(userid, serverid, &step, -1, turns[turn]);
		etcd_wait(request);
		if (etcd_reply_is_error(request, &fields))
			etcd_raise(&fields);
		bytes = request->reply;
		len = (int) request->reply_len;
		op = etcd_json_text(step.control, "op");
		next = makeStringInfo();
		appendStringInfoString(next, "{\"state\":");
		escape_json(next, etcd_json_text(step.control, "state"));
		appendStringInfoChar(next, '}');
		input = next;
	}
	MemoryContextDelete(turns[0]);
	MemoryContextDelete(turns[1]);
}
