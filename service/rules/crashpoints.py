"""The points at which the world has changed and Postgres does not know it yet.

Each has a name, so that tests can kill a real process right there (HAULIER_CRASH_AT) and show
that nothing is lost or bought twice. docs/reliability.md lists them.
"""

import os
import signal
from enum import StrEnum


class CrashPoint(StrEnum):
    """`<who>.<what has just happened>`"""

    ACCEPT_COPIED = "accept.copied"  # the requests are in blob storage, the job is not stored
    ACCEPT_STORED = "accept.stored"  # the job is stored, the producer has no answer
    FILE_WRITTEN = "file.written"  # an uploaded file's bytes are in blob storage, its row has none
    FILE_STORED = "file.stored"  # the file's row has its bytes, the producer has no answer
    FILE_DISCARDED = "file.discarded"  # the bytes of a deleted file are gone, its row has them
    INBOX_TAKEN = "inbox.taken"  # messages have left the queue, their jobs are not stored
    INBOX_STORED = "inbox.stored"  # a page is stored, its messages are not deleted
    SCHEDULER_STAMPED = "scheduler.stamped"  # rows are stamped, their messages are not sent
    WORKER_CLAIMED = "worker.claimed"  # a row is leased, nothing was done
    WORKER_APPLIED = "worker.applied"  # an outcome is stored, the chain does not go on
    SPLIT_COPIED = "split.copied"  # the requests are in blob storage, no batch is stored
    UPLOAD_FORGOTTEN = "upload.forgotten"  # the file of a lost create is deleted
    UPLOAD_SENT = "upload.sent"  # Together holds the file
    CREATE_SENT = "create.sent"  # Together holds the batch
    CREATE_FOUND = "create.found"  # the batch of a lost create was found, its duplicates cancelled
    POLL_CANCELLED = "poll.cancelled"  # Together was asked to cancel the batch
    POLL_ENDED = "poll.ended"  # the batch is known to have ended
    FETCH_DOWNLOADED = "fetch.downloaded"  # both files are on scratch space
    FETCH_WRITTEN = "fetch.written"  # the final lines are in blob storage
    FETCH_CARRIED = "fetch.carried"  # so are the manifests of what goes again
    BURY_WRITTEN = "bury.written"  # the lines of dead letters are in blob storage
    SETTLE_SLICED = "settle.sliced"  # some parts of a batch are settled, others are not
    ASSEMBLE_WRITTEN = "assemble.written"  # the merged results are in blob storage
    RETRY_WRITTEN = "retry.written"  # the manifests of revived dead letters are
    PRUNE_FORGOTTEN = "prune.forgotten"  # rows of old jobs are gone, their blobs and files are not
    DISCARD_DELETED = "discard.deleted"  # a blob or file of theirs is gone, its note is not
    NOTICE_SENT = "notice.sent"  # the receiver has a notice, nobody has noted that


def reached(point: CrashPoint) -> None:
    """Die here and now if a test chose this point. Does nothing otherwise."""
    if point == os.environ.get("HAULIER_CRASH_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
