// A function in JavaScript: takes an order as JSON and adds its totals.
//
// In: {"lines": [{"sku": "A-1", "quantity": 2, "unit_price_cents": 1999}, ...], "country": "DE"}.
// Out: the same object with net_cents, tax_cents and total_cents, the attributes of the call, and its id.
// Answers `bad_input` where the order cannot be read. Money is whole cents throughout; tax is rounded half up.

const decoder = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();

/** Tax in thousandths by country; filled by `init`. */
let taxPermille;

/** Runs once per instance, before the first call: this is where tables are loaded and clients built. */
export function init() {
  taxPermille = new Map([["AT", 200], ["CH", 81], ["DE", 190], ["ES", 210], ["FR", 200], ["NL", 210]]);
}

/** Runs once per call. Whatever is thrown as `{code, message}` becomes the error of the call; an `Error` would be a trap. */
export function handle(call) {
  const order = readOrder(call.payload);
  const net = order.lines.reduce((sum, line) => sum + line.quantity * line.unit_price_cents, 0);
  const tax = Math.floor((net * (taxPermille.get(order.country) ?? 0) + 500) / 1000);
  return encoder.encode(JSON.stringify({
    ...order,
    net_cents: net,
    tax_cents: tax,
    total_cents: net + tax,
    attributes: Object.fromEntries(call.attributes),
    invocation_id: call.id,
  }));
}

function readOrder(payload) {
  let order;
  try {
    order = JSON.parse(decoder.decode(payload));
  } catch (fault) {
    throw badInput(`the payload is not JSON in UTF-8: ${fault.message}`);
  }
  if (order === null || typeof order !== "object" || !Array.isArray(order.lines)) {
    throw badInput("the order has no list called lines");
  }
  order.lines.forEach((line, at) => {
    for (const field of ["quantity", "unit_price_cents"]) {
      if (!Number.isSafeInteger(line?.[field]) || line[field] < 0) {
        throw badInput(`lines[${at}].${field} is not a whole number of at least 0`);
      }
    }
  });
  return order;
}

function badInput(message) {
  return { code: "bad_input", message };
}
