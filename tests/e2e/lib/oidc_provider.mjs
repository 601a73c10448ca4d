// A real OpenID provider (npm's certified oidc-provider) on a free port of 127.0.0.1, for the tests
// of sign-in. One JSON line on stdout says where it is and which private keys it signs with, so
// that a test can sign tokens that are good but for one claim. One JSON line a command on stdin,
// one a reply on stdout.
//
//   node oidc_provider.mjs FOLDER      where FOLDER/node_modules/oidc-provider is
//
// OIDC_LISTEN=HOST:PORT is another place; OIDC_CERTIFICATE and OIDC_KEY (PEM files) make it https.
//
// Commands: {"do":"account","id":"alice","claims":{..}}  what an account's claims are
//           {"do":"rotate"}                   new keys with new names; the old ones are gone
//           {"do":"answer","path":"/jwks","status":200,"body":..,"type":"..","delay":ms}
//           {"do":"restore"}                  answers as the provider does again
//           {"do":"down"}                     hangs up on everybody, until restore
//           {"do":"count"}                    how often each path was asked
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const folder = process.argv[2];
const entry = `${folder}/node_modules/oidc-provider/lib/index.js`;
const { default: Provider } = await import(pathToFileURL(entry));

const CLIENT = 'agentkeys-tests';
const SECRET = 'told-to-everybody-who-asks';
const accounts = new Map();

function newKeys() {
  const make = (alg, type, options) => {
    const { privateKey } = generateKeyPairSync(type, options);
    const kid = `${alg}-${randomUUID()}`;
    const pkcs8 = privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64');
    const jwk = { ...privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig' };
    return { kid, alg, pkcs8, jwk };
  };
  return [
    make('RS256', 'rsa', { modulusLength: 2048 }),
    make('ES256', 'ec', { namedCurve: 'P-256' }),
  ];
}

function provider(issuer, keys) {
  const made = new Provider(issuer, {
    clients: [
      {
        // As Google has it: an installed program with a secret that everybody can read.
        client_id: `${CLIENT}-with-secret`,
        client_secret: SECRET,
        application_type: 'native',
        token_endpoint_auth_method: 'client_secret_post',
        redirect_uris: ['http://127.0.0.1/callback'],
        response_types: ['code'],
        grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
      },
      {
        client_id: CLIENT,
        application_type: 'native',
        token_endpoint_auth_method: 'none',
        redirect_uris: ['http://127.0.0.1/callback'],
        response_types: ['code'],
        grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
      },
    ],
    jwks: { keys: keys.map((key) => key.jwk) },
    cookies: { keys: ['a key of the tests'] },
    claims: { openid: ['sub'], email: ['email', 'email_verified'] },
    features: {
      claimsParameter: { enabled: true },
      deviceFlow: { enabled: true },
      devInteractions: { enabled: true },
    },
    async findAccount(_context, id) {
      const claims = accounts.get(id) ?? { email: `${id}@example.org`, email_verified: true };
      return { accountId: id, claims: async () => ({ sub: id, ...claims }) };
    },
  });
  return made.callback();
}

let issuer;
let keys = newKeys();
let real;
let down = false;
const answers = new Map();
const counts = {};

const handle = (request, response) => {
  const path = request.url.split('?')[0];
  counts[path] = (counts[path] ?? 0) + 1;
  if (down) {
    request.socket.destroy();
    return;
  }
  const answer = answers.get(path);
  if (!answer) {
    real(request, response);
    return;
  }
  setTimeout(() => {
    if (answer.body === undefined) {
      real(request, response);
      return;
    }
    const type = answer.type ?? 'application/json';
    response.writeHead(answer.status ?? 200, { 'content-type': type, ...answer.headers });
    response.end(typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body));
  }, answer.delay ?? 0);
};

const { OIDC_LISTEN = '127.0.0.1:0', OIDC_CERTIFICATE, OIDC_KEY } = process.env;
const secure = OIDC_CERTIFICATE !== undefined;
const server = secure
  ? createSecureServer({ cert: readFileSync(OIDC_CERTIFICATE), key: readFileSync(OIDC_KEY) }, handle)
  : createServer(handle);

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const told = () => ({
  issuer,
  client_id: CLIENT,
  keys: keys.map(({ kid, alg, pkcs8, jwk }) => {
    const { d, p, q, dp, dq, qi, ...open } = jwk;
    return { kid, alg, pkcs8, jwk: open };
  }),
});

const [host, wanted] = OIDC_LISTEN.split(':');
server.listen(Number(wanted), host, () => {
  const { port } = server.address();
  issuer = secure && port === 443 ? `https://${host}` : `http${secure ? 's' : ''}://${host}:${port}`;
  real = provider(issuer, keys);
  say(told());
});

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line);
    switch (command.do) {
      case 'account':
        accounts.set(command.id, command.claims);
        break;
      case 'rotate':
        keys = newKeys();
        real = provider(issuer, keys);
        say(told());
        return;
      case 'answer':
        answers.set(command.path, command);
        break;
      case 'restore':
        answers.clear();
        down = false;
        break;
      case 'down':
        down = true;
        break;
      case 'count':
        say(counts);
        return;
      default:
        say({ unknown: command.do });
        return;
    }
    say({});
  })
  .on('close', () => process.exit(0));
