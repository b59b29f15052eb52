// The website tag: finds the customer ID where the site shows it, and tells the endpoint once that it may.
//
// `tag.py` takes out these comments, and calls the function with the endpoint's URL and a list of
// [DPID, kind of placement, where, attribute]. It writes no cookie and no storage, adds nothing to the page, and leaves
// one global behind, which keeps a second copy of the tag quiet.
(function (base, sources) {
  "use strict";
  var page = window, site = document, sent = {}, calls = 0, wait = 100, tcf, gpp;

  // The page must never see an error of ours, nor one that its own getters and CMP throw at us.
  function quietly(act) {
    return function (first, second) {
      try { return act(first, second); } catch (error) { return undefined; }
    };
  }

  // --- the ID ---

  var read = {
    cookie: function (name) {
      var pairs = site.cookie.split("; "), i, value;
      for (i = 0; i < pairs.length; i++) {
        if (pairs[i].indexOf(name + "=") === 0) {
          value = pairs[i].slice(name.length + 1);
          // Sites encode cookies or they don't; a stray % tells that this one did not.
          try { return decodeURIComponent(value); } catch (error) { return value; }
        }
      }
    },
    js: function (path) {
      var found = walk(page, path, 0, 2);
      return found && found[0];
    },
    element: function (selector, attribute) {
      var element = site.querySelector(selector);
      return element && element.getAttribute(attribute);
    }
  };

  // The value in an array, or nothing. Lists such as Google Tag Manager's are searched from their end, the `arguments`
  // that gtag() puts there likewise. An entry that sets the key to null ends the search: somebody has logged out.
  function walk(value, path, step, lists) {
    var found, i;
    if (step === path.length || value == null) return [value];
    if (path[step] in Object(value)) return walk(value[path[step]], path, step + 1, lists);
    if (lists && /^\[object (Array|Arguments)/.test({}.toString.call(value))) {
      for (i = value.length; !found && i-- && i > value.length - 1000;) {
        found = value[i] && walk(value[i], path, step, lists - 1);
      }
    }
    return found;
  }

  // What can't be an ID, or must not be one, never leaves the page. A number past 2^53 has lost digits already.
  function usable(id) {
    if (Number.isSafeInteger(id)) id = String(id);
    return typeof id === "string" && id.length <= 512 && !/@|%40|^\s*(undefined|null|NaN)?\s*$/.test(id);
  }

  // --- consent ---

  // `tcf` and `gpp` are undefined without such a CMP, "" until it has answered, then the parameters that it comes to.
  // One that throws or never answers stays at "", and nothing is sent.
  function listen() {
    if (tcf === undefined && typeof page.__tcfapi === "function") {
      tcf = "";
      page.__tcfapi("addEventListener", 2, quietly(function (data, success) {
        tcf = "";
        if (!success || !/^(tcloaded|useractioncomplete)$/.test(data.eventStatus)) return;
        if (data.gdprApplies === false) tcf = "&gdpr=0";
        else if (data.gdprApplies && data.tcString) tcf = "&gdpr=1&gdpr_consent=" + encodeURIComponent(data.tcString);
        look();
      }));
    }
    if (gpp === undefined && typeof page.__gpp === "function") {
      gpp = "";
      page.__gpp("addEventListener", quietly(function (data, success) {
        var ping;
        gpp = "";
        ping = data.pingData;
        if (success === false || ping.signalStatus !== "ready" || !ping.gppString) return;
        gpp = "&gpp=" + encodeURIComponent(ping.gppString) +
          "&gpp_sid=" + encodeURIComponent([].concat(ping.applicableSections || []).join());
        look();
      }));
    }
  }

  // --- the call ---

  function look(leaving) {
    // The stub of a CMP may stand anywhere in the page, so nothing is sent before all of it is there.
    if (site.readyState === "loading" || site.prerendering || navigator.globalPrivacyControl) return;
    listen();
    if (tcf === "" || gpp === "") return;
    sources.forEach(quietly(function (source) {
      var id = read[source[1]](source[2], source[3]), url;
      if (!usable(id)) return;
      url = base + "/ibs:dpid=" + source[0] + "&dpuuid=" + encodeURIComponent(id) + (tcf || "") + (gpp || "");
      // An ID that changes at every look is not one: a broken page must not call without end.
      if (sent[url] || calls >= 20) return;
      sent[url] = ++calls;
      send(url, leaving);
    }));
  }

  // An image is dropped with its page; a fetch that is kept alive is not, but a site's CSP may know images only.
  function send(url, leaving) {
    function image() { new Image().src = url; }
    if (leaving && page.fetch) {
      page.fetch(url, { keepalive: true, mode: "no-cors", credentials: "include" }).catch(image);
    } else image();
  }

  // Often at first, then every 5 seconds, for a log-in without a new page.
  function watch() {
    setTimeout(quietly(watch), wait);
    wait = Math.min(wait * 1.3, 5000);
    look();
  }

  quietly(function () {
    var known = page.__idsync = page.__idsync || {};
    sources = sources.filter(function (source) {
      var key = base + " " + source[0], first = !known[key];
      known[key] = true;
      return first;
    });
    if (!sources.length) return;
    site.addEventListener("DOMContentLoaded", quietly(function () { look(); }));
    site.addEventListener("visibilitychange", quietly(function () { look(site.hidden); }));
    page.addEventListener("pagehide", quietly(function () { look(true); }));
    watch();
  })();
})
