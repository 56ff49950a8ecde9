"""The kernel of attention without its matrix of weights: softmax(scale * q k^T + mask) v, block by block of keys.

The online softmax of Milakov and Gimelshein, 2018, in the loop order of FlashAttention-2 (Dao, 2023): a program holds
a block of queries, walks over the keys, and keeps of each row the greatest score so far, the sum of its weights and
the weighted sum of values, all in float32. Heads of a size that is no power of two are two tiles side by side (72 is
64 and 16 columns), so that little is computed twice or for nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def attend(
    q,
    k,
    k_tail,
    v,
    v_tail,
    mask,
    out,
    statistics,
    scale,
    Q: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    MASK: tl.constexpr,
    OUT: tl.constexpr,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    Q_LEN: tl.constexpr,
    KV_LEN: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    QK_TILES: tl.constexpr,
    V_TILES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
    PACKED: tl.constexpr,
    TOGETHER: tl.constexpr,
    CAUSAL: tl.constexpr,
    FOLDED: tl.constexpr,
    TMA: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """One block of rows against one share of the keys: program (block, head and batch; share).

    k, v: pointers, or with TMA tensor maps of [batch, kv_len, kv_heads, dim], k_tail and v_tail those of the columns
    behind the first tile. Q, K, V, OUT: strides over batch, position, head and column; MASK: over batch, head, query
    and key. QK_TILES, V_TILES: widths of the two tiles of columns, the second 0 where one is enough.
    PACKED: a block holds the queries of all the GROUP heads that share a head of keys, head by head; otherwise those
    of one head, and TOGETHER heads are computed side by side. SPLIT: keys in a share, a multiple of BLOCK_N; where
    there are shares, statistics [2, shares, rows] take the greatest score and the sum of each, rows being [batch,
    heads, queries], and out has a further first axis.
    FOLDED: scores become powers of two by one multiplication: no mask, and a scale above 0; scale is then that factor.
    CAUSAL: key j is visible to query i if j <= i + KV_LEN - Q_LEN. DEPENDENT: wait for what runs before.
    """
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    QK_FIRST: tl.constexpr = QK_TILES[0]
    QK_SECOND: tl.constexpr = QK_TILES[1]
    V_FIRST: tl.constexpr = V_TILES[0]
    V_SECOND: tl.constexpr = V_TILES[1]
    BLOCKS: tl.constexpr = 1 if PACKED else (Q_LEN + BLOCK_M - 1) // BLOCK_M
    batch, kv_head, query, head, real = _rows(BLOCKS, HEADS, GROUP, Q_LEN, BLOCK_M, PACKED, TOGETHER)
    queries = q + batch.to(tl.int64) * Q[0] + _offsets(query, head, Q)[:, None]
    q_first = _columns(queries, real, 0, QK_FIRST, Q, HEAD_DIM)
    q_second = q_first
    if QK_SECOND > 0:
        q_second = _columns(queries, real, QK_FIRST, QK_SECOND, Q, HEAD_DIM)
    row_masks = mask
    if mask is not None:
        row_masks = mask + batch.to(tl.int64) * MASK[0]
        if MASK[1] > 0 or not PACKED:
            row_masks += head.to(tl.int64) * MASK[1]
        if MASK[2] > 0:
            row_masks += query.to(tl.int64) * MASK[2]

    share = tl.program_id(1)
    begin = share * (SPLIT if statistics is not None else 0)
    # The last key that any row may see, and the first that some row may not.
    end = tl.minimum(begin + SPLIT, KV_LEN)
    bound = end
    if CAUSAL:
        end = tl.minimum(end, tl.max(tl.where(real, query, 0), 0) + (KV_LEN - Q_LEN + 1))
        bound = tl.minimum(bound, tl.min(tl.where(real, query, Q_LEN), 0) + (KV_LEN - Q_LEN + 1))
    free = begin + tl.maximum(bound - begin, 0) // BLOCK_N * BLOCK_N

    greatest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    first = tl.zeros([BLOCK_M, V_FIRST], tl.float32)
    second = tl.zeros([BLOCK_M, V_SECOND if V_SECOND > 0 else 1], tl.float32)
    # A second loop waits for its first keys anew: too long for the few that end a causal walk, which are hidden on a
    # condition instead. A single block that is not full is better off by itself than with a condition in all others.
    middle = end if CAUSAL else free
    for start in tl.range(begin, middle, BLOCK_N):
        greatest, total, first, second = _step(
            start, free, greatest, total, first, second, q_first, q_second, k, k_tail, v, v_tail, row_masks, scale,
            batch, kv_head, query, real, K, V, MASK, Q_LEN, KV_LEN, HEAD_DIM, V_DIM, QK_TILES, V_TILES, BLOCK_N,
            CAUSAL, CAUSAL, FOLDED, TMA, PRECISION,
        )  # fmt: skip
    if not CAUSAL and KV_LEN % BLOCK_N > 0:
        for start in tl.range(free, end, BLOCK_N):
            greatest, total, first, second = _step(
                start, None, greatest, total, first, second, q_first, q_second, k, k_tail, v, v_tail, row_masks, scale,
                batch, kv_head, query, real, K, V, MASK, Q_LEN, KV_LEN, HEAD_DIM, V_DIM, QK_TILES, V_TILES, BLOCK_N,
                True, CAUSAL, FOLDED, TMA, PRECISION,
            )  # fmt: skip
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()

    results = out + batch.to(tl.int64) * OUT[0] + _offsets(query, head, OUT)[:, None]
    if statistics is not None:
        ROWS: tl.constexpr = Q_LEN * (GROUP if PACKED else 1)
        rows = (tl.num_programs(0) // BLOCKS).to(tl.int64) * ROWS
        place = share * rows + (batch * HEADS + head) * Q_LEN + query
        tl.store(statistics + place, greatest, real)
        tl.store(statistics + tl.num_programs(1) * rows + place, total, real)
        results += share * rows * V_DIM
    else:
        # A row that sees no key is 0 / 0: not a number, as the softmax of nothing but -inf.
        factor = (1.0 / total)[:, None]
        first = first * factor
        second = second * factor
    _store(results, first, real, 0, V_FIRST, OUT, V_DIM)
    if V_SECOND > 0:
        _store(results, second, real, V_FIRST, V_SECOND, OUT, V_DIM)


@triton.jit
def _rows(
    BLOCKS: tl.constexpr,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    Q_LEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PACKED: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """Batch and head of keys; query and head of each of the block's rows, and which of them there are."""
    program = tl.program_id(0)
    row = tl.arange(0, BLOCK_M)
    if PACKED:
        KV_HEADS: tl.constexpr = HEADS // GROUP
        batch = program // KV_HEADS
        kv_head = program % KV_HEADS
        query = row % Q_LEN
        head = kv_head * GROUP + row // Q_LEN
        real = row < GROUP * Q_LEN
    else:
        block, place = block_and_head(program, tl.num_programs(0), BLOCKS, TOGETHER)
        batch = place // HEADS
        head = place % HEADS
        kv_head = head // GROUP
        query = block * BLOCK_M + row
        real = query < Q_LEN
    return batch, kv_head, query, head, real


@triton.jit
def block_and_head(program, programs, BLOCKS: tl.constexpr, TOGETHER: tl.constexpr):
    """Which of BLOCKS blocks of queries a program computes, and of which head, counted through all batches.

    Of TOGETHER heads the last blocks come first: with `causal` those have most to do, and short programs at the end
    fill what the long ones leave (Graham, 1969). The next heads follow when these are done, so that the keys in use
    are few enough to stay in the second-level cache; heads that share them are neighbours. FlashAttention-3 (Shah et
    al., 2024) orders its blocks likewise.
    """
    begin = program // (TOGETHER * BLOCKS) * TOGETHER
    heads = min(TOGETHER, programs // BLOCKS - begin) if TOGETHER > 1 else 1
    place = program - begin * BLOCKS
    return BLOCKS - 1 - place // heads, begin + place % heads


@triton.jit
def _offsets(query, head, STRIDES: tl.constexpr):
    """64 bits, since a tensor may have more elements than 32 can count."""
    return tl.cast(query, tl.int64) * STRIDES[1] + head.to(tl.int64) * STRIDES[2]


@triton.jit
def _columns(rows, real, FROM: tl.constexpr, WIDTH: tl.constexpr, STRIDES: tl.constexpr, LIMIT: tl.constexpr):
    """[rows, WIDTH] elements: columns FROM, ... of rows that begin at `rows`; 0 from LIMIT on, and of no real row."""
    column = FROM + tl.arange(0, WIDTH)
    places = rows + column[None, :] * STRIDES[3]
    if FROM + WIDTH > LIMIT and real is not None:
        value = tl.load(places, real[:, None] & (column < LIMIT)[None, :], other=0.0)
    elif FROM + WIDTH > LIMIT:
        value = tl.load(places, (column < LIMIT)[None, :], other=0.0)
    elif real is not None:
        value = tl.load(places, real[:, None], other=0.0)
    else:
        value = tl.load(places)
    return value


@triton.jit
def _store(rows, value, real, FROM: tl.constexpr, WIDTH: tl.constexpr, STRIDES: tl.constexpr, LIMIT: tl.constexpr):
    column = FROM + tl.arange(0, WIDTH)
    value = value.to(rows.dtype.element_ty)
    tl.store(rows + column[None, :] * STRIDES[3], value, real[:, None] & (column < LIMIT)[None, :])


@triton.jit
def _rows_of(
    source,
    tail,
    batch,
    head,
    start,
    FROM: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIDES: tl.constexpr,
    LIMIT: tl.constexpr,
    LENGTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BOUNDED: tl.constexpr,
    TMA: tl.constexpr,
):
    """[BLOCK_N, WIDTH] of keys or values from `start` on; with BOUNDED, rows that are not there are 0."""
    if TMA and FROM == 0:
        value = source.load([batch, start, head, 0]).reshape([BLOCK_N, WIDTH])
    elif TMA:
        value = tail.load([batch, start, head, FROM]).reshape([BLOCK_N, WIDTH])
    else:
        rows = source + batch.to(tl.int64) * STRIDES[0] + _offsets(start, head, STRIDES)
        row = tl.arange(0, BLOCK_N)
        real = row < LENGTH - start if BOUNDED and LENGTH % BLOCK_N > 0 else None
        value = _columns(rows + row[:, None] * STRIDES[1], real, FROM, WIDTH, STRIDES, LIMIT)
    return value


@triton.jit
def _step(
    start,
    free,
    greatest,
    total,
    first,
    second,
    q_first,
    q_second,
    k,
    k_tail,
    v,
    v_tail,
    mask,
    scale,
    batch,
    kv_head,
    query,
    real,
    K: tl.constexpr,
    V: tl.constexpr,
    MASK: tl.constexpr,
    Q_LEN: tl.constexpr,
    KV_LEN: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    QK_TILES: tl.constexpr,
    V_TILES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BOUNDED: tl.constexpr,
    CAUSAL: tl.constexpr,
    FOLDED: tl.constexpr,
    TMA: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What is kept of each row, with the keys start, ..., start + BLOCK_N taken in.

    BOUNDED: of those from `free` on some may not be seen; free: None where that is known of these.
    """
    QK_FIRST: tl.constexpr = QK_TILES[0]
    QK_SECOND: tl.constexpr = QK_TILES[1]
    V_FIRST: tl.constexpr = V_TILES[0]
    V_SECOND: tl.constexpr = V_TILES[1]
    keys = _rows_of(
        k, k_tail, batch, kv_head, start, 0, QK_FIRST, K, HEAD_DIM, KV_LEN, BLOCK_N, BOUNDED, TMA
    )  # fmt: skip
    scores = tl.dot(q_first, tl.trans(keys), input_precision=PRECISION)
    if QK_SECOND > 0:
        keys = _rows_of(
            k, k_tail, batch, kv_head, start, QK_FIRST, QK_SECOND, K, HEAD_DIM, KV_LEN, BLOCK_N, BOUNDED, TMA
        )  # fmt: skip
        scores = tl.dot(q_second, tl.trans(keys), scores, input_precision=PRECISION)
    if not FOLDED:
        scores = scores * scale
    if mask is not None:
        scores = _with_mask(scores, mask, start, real, MASK, KV_LEN, BLOCK_N)
    if BOUNDED and (free is None or start >= free):
        column = start + tl.arange(0, BLOCK_N)
        limit = (query + (KV_LEN - Q_LEN + 1))[:, None] if CAUSAL else KV_LEN
        scores = tl.where(column[None, :] < limit, scores, float("-inf"))
    highest = tl.max(scores, axis=1)
    if FOLDED:
        highest = highest * scale
    highest = tl.maximum(greatest, highest)
    # As long as a row has seen nothing, anything but -inf keeps its weights at 0.
    level = tl.where(highest == float("-inf"), 0.0, highest)
    if FOLDED:
        weights = tl.exp2(scores * scale - level[:, None])
        decay = tl.exp2(greatest - level)
    else:
        # Powers of two come last: log2(e) times a mask of the lowest finite number would be -inf.
        weights = tl.exp2((scores - level[:, None]) * LOG2E)
        decay = tl.exp2((greatest - level) * LOG2E)
    total = total * decay + tl.sum(weights, axis=1)
    values = _rows_of(
        v, v_tail, batch, kv_head, start, 0, V_FIRST, V, V_DIM, KV_LEN, BLOCK_N, BOUNDED, TMA
    )  # fmt: skip
    weights = weights.to(values.dtype)
    first = tl.dot(weights, values, first * decay[:, None], input_precision=PRECISION)
    if V_SECOND > 0:
        values = _rows_of(
            v, v_tail, batch, kv_head, start, V_FIRST, V_SECOND, V, V_DIM, KV_LEN, BLOCK_N, BOUNDED, TMA
        )  # fmt: skip
        second = tl.dot(weights, values, second * decay[:, None], input_precision=PRECISION)
    return highest, total, first, second


@triton.jit
def _with_mask(
    scores,
    mask,
    start,
    real,
    STRIDES: tl.constexpr,
    KV_LEN: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """mask: where the mask of each row, or of all rows, begins: it is added, or -inf stands where it is false."""
    column = start + tl.arange(0, BLOCK_N)
    steps = column.to(tl.int64) * STRIDES[3]
    known = column < KV_LEN
    if mask.type.is_block():
        value = tl.load(mask[:, None] + steps[None, :], real[:, None] & known[None, :], other=0)
    else:
        value = tl.load(mask + steps, known, other=0)[None, :]
    if mask.dtype.element_ty.is_int1():
        scores = tl.where(value, scores, float("-inf"))
    else:
        scores += value.to(tl.float32)
    return scores
