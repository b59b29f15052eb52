// Reads JSON lines {kind, text, sid, vendor, purposes} and prints for each what the IAB Tech Lab's own decoders make of
// it: "grants", "refuses", or "throws". Arguments: the folders of @iabtcf/core and of @iabgpp/cmpapi.
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [tcfFolder, gppFolder] = process.argv.slice(2);
const { TCString } = await import(join(tcfFolder, "lib/mjs/index.js"));
const { GppModel, Sections } = await import(join(gppFolder, "lib/mjs/index.js"));

const POLICY_4 = Date.UTC(2023, 9, 1), DISCLOSED = Date.UTC(2026, 1, 28);
const DISCLOSED_SEGMENT = /\.[I-P]/;
const REQUIRE_CONSENT = 1;

function tcf(text, { vendor, purposes }) {
  const tc = TCString.decode(text);
  const updated = Math.max(tc.created.getTime(), tc.lastUpdated.getTime());
  if (Number(tc.version) !== 2 || !tc.isServiceSpecific) return false;
  if (updated >= POLICY_4 && Number(tc.policyVersion) < 4) return false;
  if ((updated >= DISCLOSED || DISCLOSED_SEGMENT.test(text)) && !tc.vendorsDisclosed.has(vendor)) return false;
  return tc.vendorConsents.has(vendor) && purposes.every((purpose) => tc.purposeConsents.has(purpose)) &&
    tc.publisherRestrictions.getRestrictions(vendor).every((restriction) =>
      Number(restriction.restrictionType) === REQUIRE_CONSENT || !purposes.includes(Number(restriction.purposeId)));
}

function gpp(text, { sid, vendor, purposes }) {
  const model = new GppModel(text);
  const ids = model.getSectionIds();
  return sid.split(",").map(Number).every((id) => {
    if (!ids.includes(id)) return false;
    const name = Sections.SECTION_ID_NAME_MAP.get(id);
    if (id === 2) {
      const section = text.split("~")[1 + ids.indexOf(id)];
      // Both of the IAB's decoders have a say.
      const field = (wanted) => model.getFieldValue(name, wanted);
      return tcf(section, { vendor, purposes }) && field("VendorConsents").includes(vendor) &&
        purposes.every((purpose) => field("PurposeConsents")[purpose - 1] === true);
    }
    const fields = model.getSection(name);
    if (id === 6) return fields.Version === 1 && fields.OptOutSale !== "Y";
    return Object.entries(fields).every(([key, value]) => {
      const values = [].concat(value);
      if (key === "Gpc") return value === false || fields.GpcSegmentIncluded === false;
      if (/^(Sale|Sharing|TargetedAdvertising)OptOut$/.test(key)) return value === 0 || value === 2;
      if (/^(Sharing|Processing|(Sale|Sharing|TargetedAdvertising)OptOut)Notice$/.test(key)) return value < 2;
      if (/^(KnownChild|PersonalData|AdditionalData)/.test(key)) return values.every((each) => each === 0 || each === 2);
      return true;
    });
  });
}

const lines = readFileSync(0, "utf8").trim().split("\n").map((line) => JSON.parse(line));
const answers = lines.map((line) => {
  try {
    return (line.kind === "tcf" ? tcf : gpp)(line.text, line) ? "grants" : "refuses";
  } catch (error) {
    return "throws";
  }
});
console.log(JSON.stringify(answers));
